# The node pools of each kind of cluster, as planned; the cloud is mocked.

mock_provider "google" {}

variables {
  project_id = "my-project-1"
  zone       = "us-east5-b"
}

run "without_accelerators_there_is_one_pool_and_it_is_never_spot" {
  command = plan

  assert {
    condition     = keys(google_container_node_pool.pool) == ["cpu"]
    error_message = "The pools are ${jsonencode(keys(google_container_node_pool.pool))}."
  }

  assert {
    condition = (
      google_container_node_pool.pool["cpu"].node_config[0].spot == false &&
      google_container_node_pool.pool["cpu"].autoscaling[0].min_node_count == 1 &&
      google_container_node_pool.pool["cpu"].autoscaling[0].max_node_count == 4
    )
    error_message = "Heads need a node that stays."
  }

  assert {
    condition     = length(google_compute_resource_policy.slice) == 0
    error_message = "A workload policy is for tpu7x."
  }
}

run "gpu_nodes_come_from_none_with_the_gpus_of_their_machine" {
  command = plan

  variables {
    gpu_machine_type = "g2-standard-24"
    gpu_max_nodes    = 8
    gpu_reservation  = "two-racks"
  }

  assert {
    condition     = keys(google_container_node_pool.pool) == ["cpu", "gpu"]
    error_message = "The pools are ${jsonencode(keys(google_container_node_pool.pool))}."
  }

  assert {
    condition = (
      google_container_node_pool.pool["gpu"].initial_node_count == 0 &&
      google_container_node_pool.pool["gpu"].autoscaling[0].min_node_count == 0 &&
      google_container_node_pool.pool["gpu"].autoscaling[0].max_node_count == 8
    )
    error_message = "GPU nodes cost nothing while nobody trains."
  }

  assert {
    condition = (
      google_container_node_pool.pool["gpu"].node_config[0].guest_accelerator[0].type == "nvidia-l4" &&
      google_container_node_pool.pool["gpu"].node_config[0].guest_accelerator[0].count == 2 &&
      google_container_node_pool.pool["gpu"].node_config[0].guest_accelerator[0].gpu_driver_installation_config[0].gpu_driver_version == "LATEST"
    )
    error_message = "g2-standard-24 has two L4, and no image brings the driver."
  }

  assert {
    condition = (
      google_container_node_pool.pool["gpu"].node_config[0].reservation_affinity[0].consume_reservation_type == "SPECIFIC_RESERVATION" &&
      google_container_node_pool.pool["gpu"].node_config[0].reservation_affinity[0].values == tolist(["two-racks"])
    )
    error_message = "The nodes come from the reservation."
  }

  assert {
    condition = (
      google_container_node_pool.pool["gpu"].node_config[0].spot == false &&
      length(google_container_node_pool.pool["gpu"].node_config[0].taint) == 0 &&
      length(google_container_node_pool.pool["cpu"].node_config[0].guest_accelerator) == 0
    )
    error_message = "GPU nodes that stay are no spot nodes, and CPU nodes have no GPU."
  }
}

run "gpu_spot_nodes_are_a_pool_of_their_own_with_time_to_commit" {
  command = plan

  variables {
    gpu_machine_type   = "a2-highgpu-8g"
    gpu_max_nodes      = 1
    gpu_max_spot_nodes = 16
    gpu_reservation    = "one-rack"
  }

  assert {
    condition     = keys(google_container_node_pool.pool) == ["cpu", "gpu", "gpu-spot"]
    error_message = "The pools are ${jsonencode(keys(google_container_node_pool.pool))}."
  }

  assert {
    condition = (
      google_container_node_pool.pool["gpu-spot"].node_config[0].spot == true &&
      google_container_node_pool.pool["gpu-spot"].autoscaling[0].max_node_count == 16 &&
      google_container_node_pool.pool["gpu-spot"].node_config[0].guest_accelerator[0].type == "nvidia-tesla-a100" &&
      google_container_node_pool.pool["gpu-spot"].node_config[0].guest_accelerator[0].count == 8
    )
    error_message = "Spot nodes have the same GPUs."
  }

  assert {
    condition = (
      google_container_node_pool.pool["gpu-spot"].node_config[0].taint[0].key == "cloud.google.com/gke-spot" &&
      google_container_node_pool.pool["gpu-spot"].node_config[0].taint[0].value == "true" &&
      google_container_node_pool.pool["gpu-spot"].node_config[0].taint[0].effect == "NO_SCHEDULE"
    )
    error_message = "Only pods that tolerate it land on a spot node."
  }

  # 120 s in all less 15 s for the node's own pods: a run has 105 s.
  assert {
    condition = (
      google_container_node_pool.pool["gpu-spot"].node_config[0].kubelet_config[0].shutdown_grace_period_seconds == 120 &&
      google_container_node_pool.pool["gpu-spot"].node_config[0].kubelet_config[0].shutdown_grace_period_critical_pods_seconds == 15
    )
    error_message = "GKE's 15 s are too short for a checkpoint."
  }

  assert {
    condition     = length(google_container_node_pool.pool["gpu-spot"].node_config[0].reservation_affinity) == 0
    error_message = "A spot node comes from no reservation."
  }
}

run "slices_of_one_tpu_host_share_a_pool" {
  command = plan

  variables {
    tpu_machine_type = "ct6e-standard-8t"
    tpu_topology     = "2x4"
    tpu_slices       = 3
  }

  assert {
    condition     = keys(google_container_node_pool.pool) == ["cpu", "tpu"]
    error_message = "The pools are ${jsonencode(keys(google_container_node_pool.pool))}."
  }

  # 2 x 4 = 8 chips, all of one host: a node is a slice.
  assert {
    condition = (
      google_container_node_pool.pool["tpu"].autoscaling[0].max_node_count == 3 &&
      length(google_container_node_pool.pool["tpu"].placement_policy) == 0
    )
    error_message = "Three slices are three nodes, and a single host has no neighbours to be placed with."
  }
}

run "a_slice_of_several_tpu_hosts_is_a_pool" {
  command = plan

  variables {
    tpu_machine_type = "ct6e-standard-4t"
    tpu_topology     = "4x4"
    tpu_slices       = 2
    tpu_spot         = true
  }

  assert {
    condition     = keys(google_container_node_pool.pool) == ["cpu", "tpu-0", "tpu-1"]
    error_message = "The pools are ${jsonencode(keys(google_container_node_pool.pool))}."
  }

  # 4 x 4 = 16 chips, 4 a host: 4 hosts.
  assert {
    condition = alltrue([
      for name in ["tpu-0", "tpu-1"] :
      google_container_node_pool.pool[name].initial_node_count == 0 &&
      google_container_node_pool.pool[name].autoscaling[0].min_node_count == 0 &&
      google_container_node_pool.pool[name].autoscaling[0].max_node_count == 4 &&
      google_container_node_pool.pool[name].autoscaling[0].location_policy == "ANY"
    ])
    error_message = "A slice comes whole, with its four hosts, or not at all."
  }

  assert {
    condition = alltrue([
      for name in ["tpu-0", "tpu-1"] :
      google_container_node_pool.pool[name].placement_policy[0].type == "COMPACT" &&
      google_container_node_pool.pool[name].placement_policy[0].tpu_topology == "4x4" &&
      google_container_node_pool.pool[name].node_locations == tolist(["us-east5-b"])
    ])
    error_message = "The hosts of a slice are wired to each other, in one zone."
  }

  assert {
    condition = alltrue([
      for name in ["tpu-0", "tpu-1"] :
      google_container_node_pool.pool[name].node_config[0].spot == true &&
      google_container_node_pool.pool[name].node_config[0].kubelet_config[0].shutdown_grace_period_seconds == 120 &&
      google_container_node_pool.pool[name].node_config[0].taint[0].key == "cloud.google.com/gke-spot"
    ])
    error_message = "Spot hosts have the time and the taint of spot nodes."
  }
}

run "tpu7x_is_placed_by_a_workload_policy" {
  command = plan

  variables {
    tpu_machine_type = "tpu7x-standard-4t"
    tpu_topology     = "4x4x8"
    tpu_reservation  = "a-cube"
  }

  # 4 x 4 x 8 = 128 chips, 4 a host: 32 hosts.
  assert {
    condition     = google_container_node_pool.pool["tpu-0"].autoscaling[0].max_node_count == 32
    error_message = "128 chips are 32 hosts."
  }

  assert {
    condition = (
      google_compute_resource_policy.slice[0].workload_policy[0].type == "HIGH_THROUGHPUT" &&
      google_compute_resource_policy.slice[0].workload_policy[0].accelerator_topology == "4x4x8" &&
      google_container_node_pool.pool["tpu-0"].placement_policy[0].type == "" &&
      google_container_node_pool.pool["tpu-0"].placement_policy[0].tpu_topology == "4x4x8" &&
      google_container_node_pool.pool["tpu-0"].placement_policy[0].policy_name == google_compute_resource_policy.slice[0].name
    )
    error_message = "The policy carries the topology."
  }

  assert {
    condition     = google_container_node_pool.pool["tpu-0"].node_config[0].reservation_affinity[0].values == tolist(["a-cube"])
    error_message = "The hosts come from the reservation."
  }
}

run "one_tpu7x_host_needs_no_policy" {
  command = plan

  variables {
    tpu_machine_type = "tpu7x-standard-4t"
    tpu_topology     = "2x2x1"
  }

  assert {
    condition = (
      keys(google_container_node_pool.pool) == ["cpu", "tpu"] &&
      length(google_compute_resource_policy.slice) == 0 &&
      length(google_container_node_pool.pool["tpu"].placement_policy) == 0
    )
    error_message = "A slice of one host is a node like others."
  }
}

run "every_node_is_private_shielded_and_of_the_least_account" {
  command = plan

  variables {
    gpu_machine_type   = "g2-standard-8"
    gpu_max_nodes      = 1
    gpu_max_spot_nodes = 1
    tpu_machine_type   = "ct5p-hightpu-4t"
    tpu_topology       = "2x2x2"
  }

  assert {
    condition     = length(google_container_node_pool.pool) == 4
    error_message = "All kinds of pools can be there at once."
  }

  assert {
    condition = alltrue([
      for pool in google_container_node_pool.pool :
      pool.node_config[0].workload_metadata_config[0].mode == "GKE_METADATA" &&
      pool.node_config[0].shielded_instance_config[0].enable_secure_boot == true &&
      pool.node_config[0].kubelet_config[0].insecure_kubelet_readonly_port_enabled == "FALSE" &&
      pool.node_locations == tolist(["us-east5-b"])
    ])
    error_message = "A pod must not reach the node's identity, nor anybody the kubelet without one."
  }
}
