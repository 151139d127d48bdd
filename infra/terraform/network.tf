# The cluster's own network: private addresses only, and one way out.

locals {
  region = join("-", slice(split("-", var.zone), 0, 2))
}

resource "google_compute_network" "cluster" {
  name                    = var.name
  auto_create_subnetworks = false

  depends_on = [google_project_service.api]
}

resource "google_compute_subnetwork" "nodes" {
  name                     = "${var.name}-nodes"
  network                  = google_compute_network.cluster.id
  region                   = local.region
  ip_cidr_range            = "10.0.0.0/20"
  private_ip_google_access = true # the bucket and the registry, without the way out

  secondary_ip_range {
    range_name    = "pods"
    ip_cidr_range = "10.16.0.0/14" # a /24 a node: 1,024 nodes
  }

  secondary_ip_range {
    range_name    = "services"
    ip_cidr_range = "10.32.0.0/20"
  }
}

# Nothing comes in. Out go images from other registries and what a job itself downloads.
resource "google_compute_router" "out" {
  name    = "${var.name}-out"
  network = google_compute_network.cluster.id
  region  = local.region
}

resource "google_compute_router_nat" "out" {
  name                               = "${var.name}-out"
  router                             = google_compute_router.out.name
  region                             = local.region
  nat_ip_allocate_option             = "AUTO_ONLY"
  source_subnetwork_ip_ranges_to_nat = "LIST_OF_SUBNETWORKS"

  subnetwork {
    name                    = google_compute_subnetwork.nodes.id
    source_ip_ranges_to_nat = ["ALL_IP_RANGES"]
  }
}
