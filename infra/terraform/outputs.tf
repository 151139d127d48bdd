# What the overlays in k8s/, make and kubectl read.

locals {
  registry = "${local.region}-docker.pkg.dev/${var.project_id}/${google_artifact_registry_repository.images.repository_id}"

  settings = merge(
    {
      REGISTRY             = local.registry
      IMAGE_TAG            = var.image_tag
      BUCKET               = google_storage_bucket.runs.name
      TRAINER_IDENTITY     = google_service_account.pod["trainer"].email
      TENSORBOARD_IDENTITY = google_service_account.pod["tensorboard"].email
    },
    local.gpu == null ? {} : {
      GPU_ACCELERATOR = local.gpu.accelerator
      GPUS_PER_NODE   = tostring(local.gpu.count)
    },
    local.tpu_machine == null ? {} : {
      TPU_ACCELERATOR    = local.tpu_machine.accelerator
      TPU_TOPOLOGY       = var.tpu_topology
      TPU_HOSTS          = tostring(local.tpu_hosts)
      TPU_CHIPS_PER_HOST = tostring(local.tpu_machine.chips)
    },
  )
}

output "k8s_settings" {
  description = "The lines of k8s/settings.env."
  value       = join("", [for name, value in local.settings : "${name}=${value}\n"])
}

output "get_credentials" {
  description = "The command that lets kubectl in."
  value       = "gcloud container clusters get-credentials ${google_container_cluster.samestep.name} --project ${var.project_id} --location ${local.region} --dns-endpoint"
}

output "configure_docker" {
  description = "The command that lets docker push images."
  value       = "gcloud auth configure-docker ${local.region}-docker.pkg.dev"
}
