// SPDX-License-Identifier: Apache-2.0
//! Fields that are newer than k8s-pb's sources: their protobuf numbers and markers, from Kubernetes v1.37's Go types.
//!
//! The build fails where a field of a kind is neither in those sources nor here, so that an update of either
//! dependency cannot lose one quietly.

/// Definitions of `io.k8s.api.core.v1`: name, field, protobuf number, markers.
pub const LATER: [(&str, &str, u32, &str); 41] = [
    ("ConfigMapVolumeSource", "defaultUser", 5, ""),
    ("ClusterTrustBundleProjection", "user", 6, ""),
    ("DownwardAPIVolumeFile", "user", 5, ""),
    ("DownwardAPIVolumeSource", "defaultUser", 3, ""),
    ("EmptyDirVolumeSource", "mode", 3, ""),
    ("EvictionResponder", "name", 1, ""),
    ("EvictionResponder", "priority", 2, ""),
    ("GRPCAction", "mode", 3, ""),
    ("HTTPGetAction", "protocol", 6, ""),
    ("ImageVolumeStatus", "imageRef", 1, ""),
    ("KeyToPath", "user", 4, ""),
    ("NodeAllocatableMappedResources", "name", 1, ""),
    ("NodeAllocatableMappedResources", "quantity", 2, ""),
    ("NodeAllocatableOverheadResources", "name", 1, ""),
    ("NodeAllocatableOverheadResources", "perContainer", 3, ""),
    ("NodeAllocatableOverheadResources", "perPod", 2, ""),
    (
        "NodeAllocatableResourceClaimStatus",
        "containers",
        2,
        "listType=set",
    ),
    (
        "NodeAllocatableResourceClaimStatus",
        "mapping",
        4,
        MAP_BY_NAME,
    ),
    (
        "NodeAllocatableResourceClaimStatus",
        "overhead",
        5,
        MAP_BY_NAME,
    ),
    (
        "NodeAllocatableResourceClaimStatus",
        "resourceClaimName",
        1,
        "",
    ),
    (
        "NodePodPreemptionPolicy",
        "disableResizePreemption",
        1,
        "listType=set",
    ),
    ("NodeSpec", "podPreemptionPolicy", 8, ""),
    ("PodCertificateProjection", "user", 8, ""),
    ("PodSchedulingGroup", "podGroupName", 1, ""),
    ("PodSpec", "evictionResponders", 44, MAP_BY_NAME),
    ("PodSpec", "schedulingGroup", 43, ""),
    (
        "PodStatus",
        "nodeAllocatableResourceClaimStatuses",
        21,
        "listType=map listMapKey=resourceClaimName patchStrategy=merge patchMergeKey=resourceClaimName",
    ),
    (
        "PodStatus",
        "volumeHealth",
        22,
        "listType=map listMapKey=name",
    ),
    (
        "PodVolumeHealth",
        "healthConditions",
        2,
        "listType=map listMapKey=status listMapKey=reason patchStrategy=merge patchMergeKey=status",
    ),
    ("PodVolumeHealth", "lastTransitionTime", 3, ""),
    ("PodVolumeHealth", "name", 1, ""),
    ("ProjectedVolumeSource", "defaultUser", 3, ""),
    ("ResourceHealth", "message", 6, ""),
    ("SecretVolumeSource", "defaultUser", 5, ""),
    ("ServiceAccountTokenProjection", "user", 4, ""),
    ("VolumeHealthCondition", "message", 3, ""),
    ("VolumeHealthCondition", "reason", 2, ""),
    ("VolumeHealthCondition", "status", 1, ""),
    ("VolumeMount", "bindMountOptions", 8, "listType=set"),
    ("VolumeMountStatus", "volumeStatus", 5, ""),
    ("VolumeStatus", "image", 1, ""),
];

/// Fields whose numbers are not known. Clients do not write them.
pub const UNNUMBERED: [(&str, &str); 3] = [
    (
        "io.k8s.api.core.v1.NodeSystemInfo",
        "runningInUserNamespace",
    ),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta", "shardInfo"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.ShardInfo", "selector"),
];

const MAP_BY_NAME: &str = "listType=map listMapKey=name patchStrategy=merge patchMergeKey=name";
