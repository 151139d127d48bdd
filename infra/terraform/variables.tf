# What may be chosen, and what to change where a choice cannot work.

variable "project_id" {
  description = "The cloud project's id."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project_id))
    error_message = "project_id = \"${var.project_id}\": expected the project's id, such as my-project-1; not its name or number. `gcloud projects list` shows it."
  }
}

variable "zone" {
  description = "The zone of every node. One zone: a TPU slice lies in one, and workers that step together pay for distance in every step."
  type        = string

  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+-[a-z]$", var.zone))
    error_message = "zone = \"${var.zone}\": expected a zone that has the accelerators, such as us-east5-b; a region is a zone without its last letter."
  }
}

variable "name" {
  description = "The name of the cluster, and the beginning of the other names."
  type        = string
  default     = "samestep"

  validation {
    condition     = can(regex("^[a-z]([a-z0-9-]{0,15}[a-z0-9])?$", var.name))
    error_message = "name = \"${var.name}\": expected at most 17 lower-case letters, digits and dashes, a letter first (a service account's name, \"NAME-tensorboard\", has 30 at most)."
  }
}

variable "bucket_name" {
  description = "The bucket of the runs; PROJECT_ID-NAME where none is given."
  type        = string
  default     = null

  validation {
    condition     = var.bucket_name == null ? true : can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.bucket_name))
    error_message = "bucket_name = \"${coalesce(var.bucket_name, "null")}\": expected 3 to 63 lower-case letters, digits and dashes, without gs:// and without a folder."
  }
}

variable "image_tag" {
  description = "The tag of the images that runs use."
  type        = string
  default     = "0.1.0"

  validation {
    condition     = can(regex("^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$", var.image_tag)) && var.image_tag != "latest"
    error_message = "image_tag = \"${var.image_tag}\": expected a tag that names one build, such as 0.1.0 or a commit. With \"latest\" a worker that starts again could run other code than the workers beside it."
  }
}

variable "deletion_protection" {
  description = "Whether `terraform destroy` refuses to delete the cluster."
  type        = bool
  default     = true
}

variable "release_channel" {
  description = "How soon the cluster gets new versions of Kubernetes."
  type        = string
  default     = "REGULAR"

  validation {
    condition     = contains(["RAPID", "REGULAR", "STABLE"], var.release_channel)
    error_message = "release_channel = \"${var.release_channel}\": expected RAPID, REGULAR or STABLE."
  }
}

variable "control_plane_from_internet" {
  description = "Whether kubectl works from outside the network, for those whom IAM lets in (container.clusters.connect). The control plane has no public address either way."
  type        = bool
  default     = true
}

variable "cpu_machine_type" {
  description = "The machines of heads, TensorBoard, the operators and workers without accelerators."
  type        = string
  default     = "n2-standard-8"

  validation {
    condition     = can(regex("^(c2|c2d|c3|c3d|c4|c4d|e2|n2|n2d|n4)-(standard|highmem)-[0-9]+$", var.cpu_machine_type))
    error_message = "cpu_machine_type = \"${var.cpu_machine_type}\": expected a standard or highmem machine without accelerators, such as n2-standard-8. GPUs go into gpu_machine_type, TPUs into tpu_machine_type."
  }

  validation {
    condition     = try(tonumber(reverse(split("-", var.cpu_machine_type))[0]) >= 4, true)
    error_message = "cpu_machine_type = \"${var.cpu_machine_type}\": a head needs 8 GiB beside the cluster's own pods. Choose 4 CPUs or more, such as n2-standard-8."
  }
}

variable "cpu_max_nodes" {
  description = "How far the pool without accelerators grows; one node always runs."
  type        = number
  default     = 4

  validation {
    condition     = var.cpu_max_nodes >= 1 && var.cpu_max_nodes == floor(var.cpu_max_nodes)
    error_message = "cpu_max_nodes = ${var.cpu_max_nodes}: expected a whole number, 1 or more: heads and TensorBoard run there."
  }
}

variable "gpu_machine_type" {
  description = "The machines with GPUs; none where it is null."
  type        = string
  default     = null

  validation {
    condition     = var.gpu_machine_type == null ? true : contains(keys(local.gpu_machines), var.gpu_machine_type)
    error_message = "gpu_machine_type = \"${coalesce(var.gpu_machine_type, "null")}\": expected one of ${join(", ", keys(local.gpu_machines))}. Others are smaller than the pods, or need networks of their own."
  }
}

variable "gpu_max_nodes" {
  description = "How far the pool of GPU nodes grows; it shrinks to none."
  type        = number
  default     = 0

  validation {
    condition     = var.gpu_max_nodes >= 0 && var.gpu_max_nodes == floor(var.gpu_max_nodes)
    error_message = "gpu_max_nodes = ${var.gpu_max_nodes}: expected a whole number, 0 or more."
  }

  validation {
    condition     = var.gpu_max_nodes <= 0 || var.gpu_machine_type != null
    error_message = "gpu_max_nodes = ${var.gpu_max_nodes} needs gpu_machine_type, such as g2-standard-8 (one L4)."
  }
}

variable "gpu_max_spot_nodes" {
  description = "How far the pool of GPU spot nodes grows; it shrinks to none."
  type        = number
  default     = 0

  validation {
    condition     = var.gpu_max_spot_nodes >= 0 && var.gpu_max_spot_nodes == floor(var.gpu_max_spot_nodes)
    error_message = "gpu_max_spot_nodes = ${var.gpu_max_spot_nodes}: expected a whole number, 0 or more."
  }

  validation {
    condition     = var.gpu_max_spot_nodes <= 0 || var.gpu_machine_type != null
    error_message = "gpu_max_spot_nodes = ${var.gpu_max_spot_nodes} needs gpu_machine_type, such as g2-standard-8 (one L4)."
  }

  validation {
    condition     = var.gpu_machine_type == null || var.gpu_max_nodes + var.gpu_max_spot_nodes > 0
    error_message = "gpu_machine_type is given and no node may have it: set gpu_max_nodes, gpu_max_spot_nodes or both."
  }
}

variable "gpu_reservation" {
  description = "A reservation of this project that the GPU nodes come from (not the spot ones)."
  type        = string
  default     = null

  validation {
    condition     = var.gpu_reservation == null || var.gpu_max_nodes > 0
    error_message = "gpu_reservation is used by nodes that are not spot: set gpu_max_nodes, or leave the reservation out."
  }
}

variable "tpu_machine_type" {
  description = "One host of a TPU slice; no TPUs where it is null."
  type        = string
  default     = null

  validation {
    condition     = var.tpu_machine_type == null ? true : contains(keys(local.tpu_machines), var.tpu_machine_type)
    error_message = "tpu_machine_type = \"${coalesce(var.tpu_machine_type, "null")}\": expected one of ${join(", ", keys(local.tpu_machines))}."
  }
}

variable "tpu_topology" {
  description = "A slice's chips by rows and columns (and layers), such as 4x4. How many hosts it has follows from it."
  type        = string
  default     = null

  validation {
    condition     = (var.tpu_topology == null) == (var.tpu_machine_type == null)
    error_message = "tpu_machine_type and tpu_topology go together, such as ct6e-standard-4t and 4x4: set both or neither."
  }

  validation {
    condition = var.tpu_topology == null || var.tpu_machine_type == null ? true : try(
      contains(local.tpu_machines[var.tpu_machine_type].topologies, var.tpu_topology) || (
        # The large cubes: AxBxC of multiples of 4 with A <= B <= C.
        local.tpu_machines[var.tpu_machine_type].topologies == local.cubes &&
        can(regex("^[1-9][0-9]*x[1-9][0-9]*x[1-9][0-9]*$", var.tpu_topology)) &&
        alltrue([for side in split("x", var.tpu_topology) : side % 4 == 0]) &&
        join("x", [for side in sort(formatlist("%8s", split("x", var.tpu_topology))) : trimspace(side)]) == var.tpu_topology
      ), false
    )
    error_message = "tpu_topology = \"${coalesce(var.tpu_topology, "null")}\" does not exist on ${coalesce(var.tpu_machine_type, "no machine")}: choose ${try(join(", ", local.tpu_machines[var.tpu_machine_type].topologies), "a machine first")}${try(local.tpu_machines[var.tpu_machine_type].topologies == local.cubes, false) ? " or AxBxC of multiples of 4 with A <= B <= C, such as 4x4x8" : ""}; or another tpu_machine_type."
  }
}

variable "tpu_slices" {
  description = "How many slices there can be at once."
  type        = number
  default     = 1

  validation {
    condition     = var.tpu_slices >= 1 && var.tpu_slices == floor(var.tpu_slices)
    error_message = "tpu_slices = ${var.tpu_slices}: expected a whole number, 1 or more. For none, leave tpu_machine_type out."
  }
}

variable "tpu_spot" {
  description = "Whether the TPU hosts are spot nodes."
  type        = bool
  default     = false
}

variable "tpu_reservation" {
  description = "A reservation of this project that the TPU hosts come from."
  type        = string
  default     = null

  validation {
    condition     = var.tpu_reservation == null || (var.tpu_machine_type != null && !var.tpu_spot)
    error_message = "tpu_reservation needs tpu_machine_type and excludes tpu_spot: a spot node comes from no reservation. Leave one of the two out."
  }
}
