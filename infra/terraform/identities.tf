# Who may do what: nodes, trainers and TensorBoard, each no more than it needs. No keys are made.

locals {
  namespace = "samestep" # as in k8s/

  # The part of the bucket whose objects pods read and write: an object's name is the resource of both.
  # Clients ask for an object "runs" too, to see whether it is a folder.
  objects   = "projects/_/buckets/${google_storage_bucket.runs.name}/objects"
  runs_only = "resource.name == \"${local.objects}/runs\" || resource.name.startsWith(\"${local.objects}/runs/\")"

  # Each Kubernetes service account of k8s/, and its role on runs/ in the bucket.
  pod_roles = {
    trainer     = "roles/storage.objectUser"   # read, create, replace, delete
    tensorboard = "roles/storage.objectViewer" # read
  }
}

resource "google_service_account" "nodes" {
  account_id   = "${var.name}-nodes"
  display_name = "Nodes of ${var.name}: logs, metrics, images"

  depends_on = [google_project_service.api]
}

resource "google_project_iam_member" "nodes" {
  project = var.project_id
  role    = "roles/container.defaultNodeServiceAccount" # write logs and metrics
  member  = google_service_account.nodes.member
}

resource "google_service_account" "pod" {
  for_each = local.pod_roles

  account_id   = "${var.name}-${each.key}"
  display_name = "Pods of ${local.namespace}/samestep-${each.key}"

  depends_on = [google_project_service.api]
}

# The Kubernetes service account may act as the cloud's, and nothing else may.
resource "google_service_account_iam_member" "pod" {
  for_each = local.pod_roles

  service_account_id = google_service_account.pod[each.key].name
  role               = "roles/iam.workloadIdentityUser"
  member             = "serviceAccount:${var.project_id}.svc.id.goog[${local.namespace}/samestep-${each.key}]"

  depends_on = [google_container_cluster.samestep] # the first cluster makes the pool of such members
}

resource "google_storage_bucket_iam_member" "pod" {
  for_each = local.pod_roles

  bucket = google_storage_bucket.runs.name
  role   = each.value
  member = google_service_account.pod[each.key].member

  condition {
    title       = "runs-only"
    description = "Objects under runs/."
    expression  = local.runs_only
  }
}

# Listing is asked of the bucket, whose name the condition above does not match. It is granted for the
# whole bucket, so that names, but no bytes, outside of runs/ can be seen. A narrower grant, by the prefix
# that is listed, would not do: Cloud Storage answers "not found" only to those who may list, and
# "forbidden" to others, and a run must tell an object that is not there from one it may not have.
resource "google_storage_bucket_iam_member" "list" {
  for_each = local.pod_roles

  bucket = google_storage_bucket.runs.name
  role   = "roles/storage.legacyBucketReader" # list objects, see the bucket's settings
  member = google_service_account.pod[each.key].member
}
