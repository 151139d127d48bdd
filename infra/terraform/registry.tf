# The registry of the images. A tag is never moved: a run's workers are all of one build.

resource "google_artifact_registry_repository" "images" {
  repository_id = var.name
  location      = local.region
  format        = "DOCKER"

  docker_config {
    immutable_tags = true
  }

  depends_on = [google_project_service.api]
}

resource "google_artifact_registry_repository_iam_member" "nodes_pull" {
  repository = google_artifact_registry_repository.images.name
  location   = local.region
  role       = "roles/artifactregistry.reader"
  member     = google_service_account.nodes.member
}
