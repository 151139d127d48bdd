# The TPU pools: slices of one host share a pool; a slice of several hosts is a pool of its own.

locals {
  flat  = ["2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"]
  cubes = ["2x2x1", "2x2x2", "2x2x4", "2x4x4"] # and larger ones: see tpu_topology

  # One host: the accelerator that pods ask for, its chips, the topologies that such hosts make up. Hosts
  # of one chip are smaller than the pods of k8s/components/tpu.
  tpu_machines = {
    "ct4p-hightpu-4t"   = { accelerator = "tpu-v4-podslice", chips = 4, topologies = local.cubes }
    "ct5lp-hightpu-4t"  = { accelerator = "tpu-v5-lite-podslice", chips = 4, topologies = local.flat }
    "ct5lp-hightpu-8t"  = { accelerator = "tpu-v5-lite-podslice", chips = 8, topologies = ["2x4"] }
    "ct5p-hightpu-4t"   = { accelerator = "tpu-v5p-slice", chips = 4, topologies = local.cubes }
    "ct6e-standard-4t"  = { accelerator = "tpu-v6e-slice", chips = 4, topologies = local.flat }
    "ct6e-standard-8t"  = { accelerator = "tpu-v6e-slice", chips = 8, topologies = ["2x4"] }
    "tpu7x-standard-4t" = { accelerator = "tpu7x", chips = 4, topologies = local.cubes }
  }
  tpu_machine = try(local.tpu_machines[var.tpu_machine_type], null)

  tpu_sides    = try([for side in split("x", var.tpu_topology) : parseint(side, 10)], [])
  tpu_chips    = try(local.tpu_sides[0] * local.tpu_sides[1] * try(local.tpu_sides[2], 1), 0)
  tpu_hosts    = try(local.tpu_chips / local.tpu_machine.chips, 0)
  tpu_is_multi = local.tpu_hosts > 1
  # tpu7x is placed by a workload policy, which excludes the compact placement that the others need.
  tpu_needs_policy = local.tpu_is_multi && var.tpu_machine_type == "tpu7x-standard-4t"

  tpu_names = local.tpu_machine == null ? [] : local.tpu_is_multi ? [for slice in range(var.tpu_slices) : "tpu-${slice}"] : ["tpu"]
  tpu_pools = {
    for name in local.tpu_names : name => {
      machine_type = var.tpu_machine_type
      min_nodes    = 0
      max_nodes    = local.tpu_is_multi ? local.tpu_hosts : var.tpu_slices # a slice comes and goes whole
      spot         = var.tpu_spot
      reservation  = var.tpu_reservation
      gpu          = null
      topology     = local.tpu_is_multi ? var.tpu_topology : null
      policy       = local.tpu_needs_policy ? one(google_compute_resource_policy.slice[*].name) : null
    }
  }
}

resource "google_compute_resource_policy" "slice" {
  count = local.tpu_needs_policy ? 1 : 0

  name   = "${var.name}-tpu-${var.tpu_topology}"
  region = local.region

  workload_policy {
    type                 = "HIGH_THROUGHPUT"
    accelerator_topology = var.tpu_topology
  }

  depends_on = [google_project_service.api]
}
