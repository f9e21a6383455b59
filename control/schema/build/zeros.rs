// SPDX-License-Identifier: Apache-2.0
//! Which fields of no value Kubernetes writes: those that are pointers in its Go types (v1.37).
//!
//! A field that is `omitempty` and no pointer cannot tell false, 0 and "" from absent, so such values are not kept.
//! OpenAPI and protobuf do not say what is a pointer; this table does, by definition. Times, lists and maps are not in
//! it: they follow other rules. Fields of unknown kind are listed as well, since keeping a value is never wrong by much.

use serde_json::{Map, Value, json};

/// The extension of a field that keeps false, 0 and "".
const KEPT: &str = "x-knarr-keeps-zero";

/// The end of a definition's name, and its fields that keep false, 0 and "".
const POINTERS: &[(&str, &str)] = &[
    ("core.v1.AppArmorProfile", "localhostProfile"),
    (
        "core.v1.AzureDiskVolumeSource",
        "cachingMode fsType kind readOnly",
    ),
    ("core.v1.CSIVolumeSource", "fsType readOnly"),
    ("core.v1.ClientIPConfig", "timeoutSeconds"),
    (
        "core.v1.ClusterTrustBundleProjection",
        "name optional signerName user",
    ),
    ("core.v1.ConfigMap", "immutable"),
    ("core.v1.ConfigMapEnvSource", "optional"),
    ("core.v1.ConfigMapKeySelector", "optional"),
    ("core.v1.ConfigMapProjection", "optional"),
    (
        "core.v1.ConfigMapVolumeSource",
        "defaultMode defaultUser optional",
    ),
    ("core.v1.Container", "restartPolicy"),
    ("core.v1.ContainerStatus", "started stopSignal"),
    (
        "meta.v1.DeleteOptions",
        "gracePeriodSeconds ignoreStoreReadErrorWithClusterBreakingPotential orphanDependents propagationPolicy",
    ),
    ("apps.v1.DeploymentCondition", "status type"),
    (
        "apps.v1.DeploymentSpec",
        "progressDeadlineSeconds replicas revisionHistoryLimit",
    ),
    (
        "apps.v1.DeploymentStatus",
        "collisionCount terminatingReplicas",
    ),
    ("core.v1.DownwardAPIVolumeFile", "mode user"),
    ("core.v1.DownwardAPIVolumeSource", "defaultMode defaultUser"),
    ("core.v1.EmptyDirVolumeSource", "mode"),
    ("discovery.v1.Endpoint", "hostname nodeName zone"),
    ("core.v1.EndpointAddress", "nodeName"),
    (
        "discovery.v1.EndpointConditions",
        "ready serving terminating",
    ),
    ("core.v1.EndpointPort", "appProtocol"),
    (
        "discovery.v1.EndpointPort",
        "appProtocol name port protocol",
    ),
    ("core.v1.EphemeralContainer", "restartPolicy"),
    ("core.v1.Event", "reportingComponent reportingInstance"),
    ("core.v1.FCVolumeSource", "lun"),
    ("core.v1.FileKeySelector", "optional"),
    ("core.v1.GRPCAction", "mode service"),
    ("core.v1.HTTPGetAction", "protocol"),
    ("core.v1.HostPathVolumeSource", "type"),
    ("core.v1.ISCSIVolumeSource", "initiatorName"),
    ("core.v1.KeyToPath", "mode user"),
    (
        "coordination.v1.LeaseSpec",
        "holderIdentity leaseDurationSeconds leaseTransitions preferredHolder strategy",
    ),
    ("core.v1.Lifecycle", "stopSignal"),
    ("meta.v1.ListMeta", "remainingItemCount"),
    ("core.v1.LoadBalancerIngress", "ipMode"),
    ("core.v1.NodeFeatures", "supplementalGroupsPolicy"),
    ("core.v1.NodeRuntimeHandler", "name"),
    (
        "core.v1.NodeRuntimeHandlerFeatures",
        "recursiveReadOnlyMounts userNamespaces",
    ),
    ("core.v1.NodeSwapStatus", "capacity"),
    ("core.v1.NodeSystemInfo", "runningInUserNamespace"),
    ("meta.v1.ObjectMeta", "deletionGracePeriodSeconds"),
    ("meta.v1.OwnerReference", "blockOwnerDeletion controller"),
    (
        "core.v1.PersistentVolumeClaimSpec",
        "storageClassName volumeAttributesClassName volumeMode",
    ),
    (
        "core.v1.PodCertificateProjection",
        "maxExpirationSeconds user",
    ),
    ("core.v1.PodDNSConfigOption", "value"),
    (
        "core.v1.PodResourceClaim",
        "resourceClaimName resourceClaimTemplateName",
    ),
    ("core.v1.PodResourceClaimStatus", "resourceClaimName"),
    ("core.v1.PodSchedulingGroup", "podGroupName"),
    (
        "core.v1.PodSecurityContext",
        "fsGroup fsGroupChangePolicy runAsGroup runAsNonRoot runAsUser seLinuxChangePolicy supplementalGroupsPolicy",
    ),
    (
        "core.v1.PodSpec",
        "activeDeadlineSeconds automountServiceAccountToken enableServiceLinks hostUsers hostnameOverride \
         preemptionPolicy priority runtimeClassName setHostnameAsFQDN shareProcessNamespace \
         terminationGracePeriodSeconds",
    ),
    ("core.v1.PortStatus", "error"),
    ("meta.v1.Preconditions", "resourceVersion uid"),
    ("core.v1.Probe", "terminationGracePeriodSeconds"),
    ("core.v1.ProjectedVolumeSource", "defaultMode defaultUser"),
    ("apps.v1.ReplicaSetCondition", "status type"),
    ("apps.v1.ReplicaSetSpec", "replicas"),
    ("apps.v1.ReplicaSetStatus", "terminatingReplicas"),
    ("core.v1.ResourceHealth", "message"),
    ("core.v1.SeccompProfile", "localhostProfile"),
    ("core.v1.Secret", "immutable"),
    ("core.v1.SecretEnvSource", "optional"),
    ("core.v1.SecretKeySelector", "optional"),
    ("core.v1.SecretProjection", "optional"),
    (
        "core.v1.SecretVolumeSource",
        "defaultMode defaultUser optional",
    ),
    (
        "core.v1.SecurityContext",
        "allowPrivilegeEscalation privileged procMount readOnlyRootFilesystem runAsGroup runAsNonRoot runAsUser",
    ),
    ("core.v1.ServiceAccount", "automountServiceAccountToken"),
    (
        "core.v1.ServiceAccountTokenProjection",
        "expirationSeconds user",
    ),
    ("core.v1.ServicePort", "appProtocol"),
    (
        "core.v1.ServiceSpec",
        "allocateLoadBalancerNodePorts internalTrafficPolicy ipFamilyPolicy loadBalancerClass trafficDistribution",
    ),
    ("core.v1.Toleration", "tolerationSeconds"),
    (
        "core.v1.TopologySpreadConstraint",
        "minDomains nodeAffinityPolicy nodeTaintsPolicy",
    ),
    ("core.v1.TypedLocalObjectReference", "apiGroup"),
    ("core.v1.TypedObjectReference", "apiGroup namespace"),
    ("core.v1.VolumeHealthCondition", "message"),
    ("core.v1.VolumeMount", "mountPropagation recursiveReadOnly"),
    ("core.v1.VolumeMountStatus", "recursiveReadOnly"),
    (
        "core.v1.WindowsSecurityContextOptions",
        "gmsaCredentialSpec gmsaCredentialSpecName hostProcess runAsUserName",
    ),
];

/// Marks the fields of the table. A row that names what is not there is an error: the table would be out of date.
pub fn mark(types: &mut Map<String, Value>) -> Result<(), String> {
    for (end, fields) in POINTERS {
        let end = format!(".{end}");
        let definition = types.iter_mut().find(|(name, _)| name.ends_with(&end));
        let (_, definition) = definition.ok_or(format!("no definition ends with {end}"))?;
        for field in fields.split_whitespace() {
            let property = definition["properties"].get_mut(field);
            let property = property.ok_or(format!("{end} has no field {field}"))?;
            property[KEPT] = json!(true);
        }
    }
    Ok(())
}
