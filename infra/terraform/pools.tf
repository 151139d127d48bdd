# The node pools: what they have in common. gpu.tf and tpu.tf say which there are beside the CPU nodes.

locals {
  pools = merge(
    {
      # Never spot: a run ends with its head.
      cpu = {
        machine_type = var.cpu_machine_type
        min_nodes    = 1
        max_nodes    = var.cpu_max_nodes
        spot         = false
        reservation  = null
        gpu          = null
        topology     = null
        policy       = null
      }
    },
    local.gpu_pools,
    local.tpu_pools,
  )
}

resource "google_container_node_pool" "pool" {
  for_each = local.pools

  name               = each.key
  cluster            = google_container_cluster.samestep.id
  node_locations     = [var.zone] # one: a TPU slice must not be stretched over two
  initial_node_count = each.value.min_nodes

  autoscaling {
    # Per zone, and there is one. total_max_node_count would leave this at 0, which no TPU slice can have.
    min_node_count  = each.value.min_nodes
    max_node_count  = each.value.max_nodes
    location_policy = "ANY"
  }

  management {
    auto_repair  = true
    auto_upgrade = true # a release channel wants it
  }

  # The hosts of a slice are wired to each other, so they are placed as one. Where a workload policy does
  # it, GKE keeps no type: one given here would replace the pool at each apply.
  dynamic "placement_policy" {
    for_each = each.value.topology == null ? [] : [each.value]

    content {
      type         = placement_policy.value.policy == null ? "COMPACT" : ""
      tpu_topology = placement_policy.value.topology
      policy_name  = placement_policy.value.policy
    }
  }

  node_config {
    machine_type    = each.value.machine_type
    disk_size_gb    = 200 # the GPU image alone unpacks to several GB
    spot            = each.value.spot
    service_account = google_service_account.nodes.email
    oauth_scopes    = ["https://www.googleapis.com/auth/cloud-platform"] # the account's roles are the limit

    # Pods see their own identity, never the node's.
    workload_metadata_config {
      mode = "GKE_METADATA"
    }

    shielded_instance_config {
      enable_secure_boot          = true
      enable_integrity_monitoring = true
    }

    # A container starts before its whole image is there.
    gcfs_config {
      enabled = true
    }

    kubelet_config {
      insecure_kubelet_readonly_port_enabled = "FALSE"

      # GKE gives a pod on a spot node 15 s. With 120 in all, 15 of them for the node's own pods, a run
      # has 105 s to commit. Only spot nodes take the setting; its values are 0, 30 and 120.
      shutdown_grace_period_seconds               = each.value.spot ? 120 : null
      shutdown_grace_period_critical_pods_seconds = each.value.spot ? 15 : null
    }

    dynamic "guest_accelerator" {
      for_each = each.value.gpu == null ? [] : [each.value.gpu]

      content {
        type  = guest_accelerator.value.accelerator
        count = guest_accelerator.value.count

        gpu_driver_installation_config {
          gpu_driver_version = "LATEST"
        }
      }
    }

    dynamic "reservation_affinity" {
      for_each = each.value.reservation == null ? [] : [each.value.reservation]

      content {
        consume_reservation_type = "SPECIFIC_RESERVATION"
        key                      = "compute.googleapis.com/reservation-name"
        values                   = [reservation_affinity.value]
      }
    }

    # Only what says that it can be preempted lands on a spot node. GKE itself taints GPU and TPU nodes.
    dynamic "taint" {
      for_each = each.value.spot ? ["true"] : []

      content {
        key    = "cloud.google.com/gke-spot"
        value  = taint.value
        effect = "NO_SCHEDULE"
      }
    }
  }
}
