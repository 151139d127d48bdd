# The bucket of the runs: private, flat, and emptied by nobody but the runs' own retention.

resource "google_storage_bucket" "runs" {
  name          = coalesce(var.bucket_name, "${var.project_id}-${var.name}")
  location      = local.region
  force_destroy = false # `terraform destroy` stops at a bucket that holds runs

  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"

  # A run deletes its old checkpoints itself. Kept for seven days more, as buckets do where nothing
  # is said, they would be most of the bill.
  soft_delete_policy {
    retention_duration_seconds = 0
  }

  versioning {
    enabled = false # files are named by their content, and the log's are created once
  }

  # No rule deletes under runs/. Rules know an object's age, not who refers to it: tensors that did not
  # change since the first checkpoint are part of the last one, and a run that waits for a month goes on
  # from a checkpoint of a month ago. Which files may go is in the run's own log (keep, keep_best).
  lifecycle_rule {
    condition {
      age            = 30
      matches_prefix = ["scratch/"]
    }

    action {
      type = "Delete"
    }
  }

  # An upload that its process did not live to end, seen by nobody but the bill.
  lifecycle_rule {
    condition {
      age = 7
    }

    action {
      type = "AbortIncompleteMultipartUpload"
    }
  }

  depends_on = [google_project_service.api]
}
