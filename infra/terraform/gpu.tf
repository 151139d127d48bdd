# The GPU pools: one that stays, one of spot nodes, each from no node at all.

locals {
  # The GPUs that a machine type has. g2-standard-4 is smaller than the pods of k8s/components/gpu, and
  # larger ones (a3-megagpu and on) need networks of their own.
  gpu_machines = {
    "g2-standard-8"  = { accelerator = "nvidia-l4", count = 1 }
    "g2-standard-12" = { accelerator = "nvidia-l4", count = 1 }
    "g2-standard-16" = { accelerator = "nvidia-l4", count = 1 }
    "g2-standard-24" = { accelerator = "nvidia-l4", count = 2 }
    "g2-standard-32" = { accelerator = "nvidia-l4", count = 1 }
    "g2-standard-48" = { accelerator = "nvidia-l4", count = 4 }
    "g2-standard-96" = { accelerator = "nvidia-l4", count = 8 }
    "a2-highgpu-1g"  = { accelerator = "nvidia-tesla-a100", count = 1 }
    "a2-highgpu-2g"  = { accelerator = "nvidia-tesla-a100", count = 2 }
    "a2-highgpu-4g"  = { accelerator = "nvidia-tesla-a100", count = 4 }
    "a2-highgpu-8g"  = { accelerator = "nvidia-tesla-a100", count = 8 }
    "a2-megagpu-16g" = { accelerator = "nvidia-tesla-a100", count = 16 }
    "a2-ultragpu-1g" = { accelerator = "nvidia-a100-80gb", count = 1 }
    "a2-ultragpu-2g" = { accelerator = "nvidia-a100-80gb", count = 2 }
    "a2-ultragpu-4g" = { accelerator = "nvidia-a100-80gb", count = 4 }
    "a2-ultragpu-8g" = { accelerator = "nvidia-a100-80gb", count = 8 }
    "a3-highgpu-8g"  = { accelerator = "nvidia-h100-80gb", count = 8 }
  }

  gpu = var.gpu_machine_type == null ? null : lookup(local.gpu_machines, var.gpu_machine_type, null)

  gpu_most = { "gpu" = var.gpu_max_nodes, "gpu-spot" = var.gpu_max_spot_nodes }
  gpu_pools = {
    for name, most in local.gpu_most : name => {
      machine_type = var.gpu_machine_type
      min_nodes    = 0
      max_nodes    = most
      spot         = name == "gpu-spot"
      reservation  = name == "gpu-spot" ? null : var.gpu_reservation
      gpu          = local.gpu
      topology     = null
      policy       = null
    } if most > 0
  }
}
