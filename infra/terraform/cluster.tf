# The cluster: private nodes, identities for pods, policies that are enforced, metrics that are kept.

resource "google_container_cluster" "samestep" {
  name                = var.name
  location            = local.region # the control plane outlives a zone; the nodes lie in one
  node_locations      = [var.zone]
  deletion_protection = var.deletion_protection

  release_channel {
    channel = var.release_channel
  }

  # Upgrades wait for the weekend. A run that they meet commits and goes on.
  maintenance_policy {
    recurring_window {
      start_time = "2026-01-03T00:00:00Z"
      end_time   = "2026-01-05T00:00:00Z"
      recurrence = "FREQ=WEEKLY;BYDAY=SA"
    }
  }

  network           = google_compute_network.cluster.id
  subnetwork        = google_compute_subnetwork.nodes.id
  datapath_provider = "ADVANCED_DATAPATH" # Dataplane V2: NetworkPolicies are enforced

  ip_allocation_policy {
    cluster_secondary_range_name  = "pods"
    services_secondary_range_name = "services"
  }

  private_cluster_config {
    enable_private_nodes = true
  }

  # kubectl comes in by the cluster's DNS name only, where IAM asks who it is.
  control_plane_endpoints_config {
    dns_endpoint_config {
      allow_external_traffic = var.control_plane_from_internet
    }

    ip_endpoints_config {
      enabled = false
    }
  }

  master_auth {
    client_certificate_config {
      issue_client_certificate = false
    }
  }

  workload_identity_config {
    workload_pool = "${var.project_id}.svc.id.goog"
  }

  addons_config {
    # Google runs KubeRay's operator and sets what the hosts of a TPU slice must know of each other.
    ray_operator_config {
      enabled = true

      ray_cluster_logging_config {
        enabled = true
      }

      ray_cluster_monitoring_config {
        enabled = true
      }
    }
  }

  logging_config {
    enable_components = ["SYSTEM_COMPONENTS", "WORKLOADS"]
  }

  monitoring_config {
    enable_components = ["SYSTEM_COMPONENTS"]

    managed_prometheus {
      enabled = true
    }
  }

  cost_management_config {
    enabled = true # the bill by namespace
  }

  # The pools are this module's own (pools.tf). A cluster is made with one all the same; it lives for
  # minutes, guarded as they are and not as the project's all-powerful default account.
  remove_default_node_pool = true
  initial_node_count       = 1

  node_config {
    service_account = google_service_account.nodes.email

    shielded_instance_config {
      enable_secure_boot = true
    }

    workload_metadata_config {
      mode = "GKE_METADATA"
    }
  }

  lifecycle {
    ignore_changes = [node_config] # of the pool that is gone
  }

  depends_on = [google_project_iam_member.nodes]
}
