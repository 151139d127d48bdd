# Who may do what: nodes, trainers and TensorBoard, each no more than it needs. No keys are made.

locals {
  namespace = "samestep" # as in k8s/

  # The part of the bucket that pods see. An object's name is the resource of reading, writing and
  # deleting it. Listing is asked of the bucket, which has no object's name: there the condition is the
  # prefix that is listed, so that nobody lists what they cannot read. A prefix of "runs" itself, without
  # the slash, is how a client asks whether the folder is there.
  runs_only = join(" || ", [
    "resource.name.startsWith(\"projects/_/buckets/${google_storage_bucket.runs.name}/objects/runs/\")",
    "api.getAttribute(\"storage.googleapis.com/objectListPrefix\", \"\") == \"runs\"",
    "api.getAttribute(\"storage.googleapis.com/objectListPrefix\", \"\").startsWith(\"runs/\")",
  ])

  # Each Kubernetes service account of k8s/, and its role on runs/ in the bucket.
  pod_roles = {
    trainer     = "roles/storage.objectUser"   # read, create, replace, delete, list
    tensorboard = "roles/storage.objectViewer" # read, list
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
    description = "Objects under runs/, and listing them."
    expression  = local.runs_only
  }
}
