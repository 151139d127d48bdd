# Who gets in, who may write where, what outlives what; and what k8s/ is told. The cloud is mocked.

mock_provider "google" {
  mock_resource "google_service_account" {
    defaults = {
      email  = "somebody@my-project-1.iam.gserviceaccount.com"
      member = "serviceAccount:somebody@my-project-1.iam.gserviceaccount.com"
      name   = "projects/my-project-1/serviceAccounts/somebody"
    }
  }
}

variables {
  project_id = "my-project-1"
  zone       = "us-east5-b"
}

run "the_cluster_lets_nobody_in_by_address" {
  command = plan

  assert {
    condition = (
      google_container_cluster.samestep.control_plane_endpoints_config[0].ip_endpoints_config[0].enabled == false &&
      google_container_cluster.samestep.private_cluster_config[0].enable_private_nodes == true &&
      google_container_cluster.samestep.master_auth[0].client_certificate_config[0].issue_client_certificate == false
    )
    error_message = "The one way in is the DNS endpoint, where IAM asks who it is."
  }

  assert {
    condition = (
      google_container_cluster.samestep.datapath_provider == "ADVANCED_DATAPATH" &&
      google_container_cluster.samestep.workload_identity_config[0].workload_pool == "my-project-1.svc.id.goog"
    )
    error_message = "NetworkPolicies are enforced, and pods have identities."
  }

  assert {
    condition = (
      google_container_cluster.samestep.monitoring_config[0].managed_prometheus[0].enabled == true &&
      google_container_cluster.samestep.addons_config[0].ray_operator_config[0].enabled == true &&
      google_container_cluster.samestep.deletion_protection == true
    )
    error_message = "Metrics are kept, KubeRay runs, and destroy is refused until it is meant."
  }

  assert {
    condition = (
      google_container_cluster.samestep.location == "us-east5" &&
      google_container_cluster.samestep.remove_default_node_pool == true &&
      google_compute_network.cluster.auto_create_subnetworks == false &&
      google_compute_subnetwork.nodes.private_ip_google_access == true
    )
    error_message = "The cluster has a network and pools of its own."
  }
}

run "kubectl_can_be_kept_inside" {
  command = plan

  variables {
    control_plane_from_internet = false
  }

  assert {
    condition     = google_container_cluster.samestep.control_plane_endpoints_config[0].dns_endpoint_config[0].allow_external_traffic == false
    error_message = "The DNS endpoint answers from inside only."
  }
}

run "no_rule_of_the_bucket_deletes_what_a_run_needs" {
  assert {
    condition = (
      google_storage_bucket.runs.name == "my-project-1-samestep" &&
      google_storage_bucket.runs.location == "us-east5" &&
      google_storage_bucket.runs.uniform_bucket_level_access == true &&
      google_storage_bucket.runs.public_access_prevention == "enforced" &&
      google_storage_bucket.runs.force_destroy == false &&
      google_storage_bucket.runs.soft_delete_policy[0].retention_duration_seconds == 0
    )
    error_message = "The bucket is private, near the nodes, and outlives the cluster."
  }

  assert {
    condition = [
      for rule in google_storage_bucket.runs.lifecycle_rule : rule.condition[0].matches_prefix if rule.action[0].type == "Delete"
    ] == [tolist(["scratch/"])]
    error_message = "A rule knows an object's age, not who needs it."
  }
}

run "pods_see_runs_only_and_tensorboard_only_reads" {
  command = plan

  assert {
    condition = (
      google_storage_bucket_iam_member.pod["trainer"].role == "roles/storage.objectUser" &&
      google_storage_bucket_iam_member.pod["tensorboard"].role == "roles/storage.objectViewer" &&
      length(google_storage_bucket_iam_member.pod) == 2
    )
    error_message = "Trainers write, TensorBoard reads, nobody else does either."
  }

  assert {
    condition = alltrue([
      for member in google_storage_bucket_iam_member.pod :
      member.condition[0].expression == join(" || ", [
        "resource.name == \"projects/_/buckets/my-project-1-samestep/objects/runs\"",
        "resource.name.startsWith(\"projects/_/buckets/my-project-1-samestep/objects/runs/\")",
      ])
    ])
    error_message = "Both are confined to runs/."
  }

  assert {
    condition = alltrue([
      for member in google_storage_bucket_iam_member.list : member.role == "roles/storage.legacyBucketReader"
    ]) && length(google_storage_bucket_iam_member.list) == 2
    error_message = "Both list the bucket, or a missing object looks forbidden."
  }

  assert {
    condition = (
      google_service_account_iam_member.pod["trainer"].member == "serviceAccount:my-project-1.svc.id.goog[samestep/samestep-trainer]" &&
      google_service_account_iam_member.pod["tensorboard"].member == "serviceAccount:my-project-1.svc.id.goog[samestep/samestep-tensorboard]" &&
      alltrue([for member in google_service_account_iam_member.pod : member.role == "roles/iam.workloadIdentityUser"])
    )
    error_message = "Each identity belongs to one Kubernetes service account."
  }

  assert {
    condition = (
      google_project_iam_member.nodes.role == "roles/container.defaultNodeServiceAccount" &&
      google_artifact_registry_repository_iam_member.nodes_pull.role == "roles/artifactregistry.reader" &&
      google_artifact_registry_repository.images.docker_config[0].immutable_tags == true
    )
    error_message = "A node writes logs and metrics, and pulls images whose tags do not move."
  }
}

run "k8s_is_told_what_it_must_know" {
  variables {
    image_tag        = "3f2a9c1"
    gpu_machine_type = "g2-standard-48"
    gpu_max_nodes    = 2
    tpu_machine_type = "ct5lp-hightpu-4t"
    tpu_topology     = "4x8"
  }

  # 4 x 8 = 32 chips, 4 a host: 8 hosts.
  assert {
    condition     = output.k8s_settings == <<-SETTINGS
      BUCKET=my-project-1-samestep
      GPUS_PER_NODE=4
      GPU_ACCELERATOR=nvidia-l4
      IMAGE_TAG=3f2a9c1
      REGISTRY=us-east5-docker.pkg.dev/my-project-1/samestep
      TENSORBOARD_IDENTITY=somebody@my-project-1.iam.gserviceaccount.com
      TPU_ACCELERATOR=tpu-v5-lite-podslice
      TPU_CHIPS_PER_HOST=4
      TPU_HOSTS=8
      TPU_TOPOLOGY=4x8
      TRAINER_IDENTITY=somebody@my-project-1.iam.gserviceaccount.com
    SETTINGS
    error_message = output.k8s_settings
  }

  assert {
    condition     = output.get_credentials == "gcloud container clusters get-credentials samestep --project my-project-1 --location us-east5 --dns-endpoint"
    error_message = output.get_credentials
  }
}

run "without_accelerators_k8s_is_told_of_none" {
  assert {
    condition     = !strcontains(output.k8s_settings, "GPU") && !strcontains(output.k8s_settings, "TPU")
    error_message = output.k8s_settings
  }
}
