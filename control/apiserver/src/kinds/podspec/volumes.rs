// SPDX-License-Identifier: Apache-2.0
//! What is wrong with the volumes of a pod spec.

use k8s_openapi::api::core::v1::{KeyToPath, PodSpec, Volume};
use knarr_api::names::validate_dns_label;
use knarr_api::quantity::Quantity;

use crate::field::FieldErrors;
use crate::registry::rules::{items, text};

/// Checks the volumes and returns their names.
pub(super) fn volumes<'a>(
    spec: &'a PodSpec,
    field: &str,
    errors: &mut FieldErrors,
) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for (index, volume) in items(&spec.volumes).iter().enumerate() {
        let field = format!("{field}[{index}]");
        let name = volume.name.as_str();
        if name.is_empty() {
            errors.required(&format!("{field}.name"), "");
        } else {
            for message in validate_dns_label(name) {
                errors.invalid(&format!("{field}.name"), name, &message);
            }
            if names.contains(&name) {
                errors.duplicate(&format!("{field}.name"), name);
            }
        }
        names.push(name);
        source(volume, &field, errors);
    }
    names
}

/// The sources that a volume names, in the order in which Kubernetes looks at them (`validateVolumeSource`).
fn sources(volume: &Volume) -> impl Iterator<Item = &'static str> {
    let all = [
        ("emptyDir", volume.empty_dir.is_some()),
        ("hostPath", volume.host_path.is_some()),
        ("gitRepo", volume.git_repo.is_some()),
        ("gcePersistentDisk", volume.gce_persistent_disk.is_some()),
        (
            "awsElasticBlockStore",
            volume.aws_elastic_block_store.is_some(),
        ),
        ("secret", volume.secret.is_some()),
        ("nfs", volume.nfs.is_some()),
        ("iscsi", volume.iscsi.is_some()),
        ("glusterfs", volume.glusterfs.is_some()),
        ("flocker", volume.flocker.is_some()),
        (
            "persistentVolumeClaim",
            volume.persistent_volume_claim.is_some(),
        ),
        ("rbd", volume.rbd.is_some()),
        ("cinder", volume.cinder.is_some()),
        ("cephfs", volume.cephfs.is_some()),
        ("quobyte", volume.quobyte.is_some()),
        ("downwardAPI", volume.downward_api.is_some()),
        ("fc", volume.fc.is_some()),
        ("flexVolume", volume.flex_volume.is_some()),
        ("configMap", volume.config_map.is_some()),
        ("azureFile", volume.azure_file.is_some()),
        ("vsphereVolume", volume.vsphere_volume.is_some()),
        (
            "photonPersistentDisk",
            volume.photon_persistent_disk.is_some(),
        ),
        ("portworxVolume", volume.portworx_volume.is_some()),
        ("azureDisk", volume.azure_disk.is_some()),
        ("storageos", volume.storageos.is_some()),
        ("projected", volume.projected.is_some()),
        ("scaleIO", volume.scale_io.is_some()),
        ("csi", volume.csi.is_some()),
        ("ephemeral", volume.ephemeral.is_some()),
        ("image", volume.image.is_some()),
    ];
    let named = all.into_iter().filter(|(_, is_set)| *is_set);
    named.map(|(name, _)| name)
}

fn source(volume: &Volume, field: &str, errors: &mut FieldErrors) {
    for more in sources(volume).skip(1) {
        errors.forbidden(
            &format!("{field}.{more}"),
            "may not specify more than 1 volume type",
        );
    }
    if let Some(host) = &volume.host_path {
        if host.path.is_empty() {
            errors.required(&format!("{field}.hostPath.path"), "");
        } else if host.path.split('/').any(|part| part == "..") {
            errors.invalid(
                &format!("{field}.hostPath.path"),
                host.path.as_str(),
                "must not contain '..'",
            );
        }
    }
    if let Some(secret) = &volume.secret
        && text(&secret.secret_name).is_empty()
    {
        errors.required(&format!("{field}.secret.secretName"), "");
    }
    if let Some(map) = &volume.config_map
        && map.name.is_empty()
    {
        errors.required(&format!("{field}.configMap.name"), "");
    }
    if let Some(claim) = &volume.persistent_volume_claim
        && claim.claim_name.is_empty()
    {
        errors.required(&format!("{field}.persistentVolumeClaim.claimName"), "");
    }
    let limit = volume
        .empty_dir
        .as_ref()
        .and_then(|e| e.size_limit.as_ref());
    if let Some(limit) = limit {
        let at = format!("{field}.emptyDir.sizeLimit");
        match limit.0.parse::<Quantity>() {
            Err(error) => errors.invalid(&at, limit.0.as_str(), &error.to_string()),
            Ok(parsed) if parsed.is_negative() => {
                errors.forbidden(&at, "SizeLimit field must be a valid resource quantity");
            }
            Ok(_) => {}
        }
    }
    if let Some(secret) = &volume.secret {
        let field = format!("{field}.secret");
        files(items(&secret.items), secret.default_mode, &field, errors);
    }
    if let Some(map) = &volume.config_map {
        let field = format!("{field}.configMap");
        files(items(&map.items), map.default_mode, &field, errors);
    }
}

/// The files that a volume makes of the entries of an object.
fn files(entries: &[KeyToPath], default_mode: Option<i32>, field: &str, errors: &mut FieldErrors) {
    for (index, entry) in entries.iter().enumerate() {
        let field = format!("{field}.items[{index}]");
        if entry.key.is_empty() {
            errors.required(&format!("{field}.key"), "");
        }
        let path = entry.path.as_str();
        if path.is_empty() {
            errors.required(&format!("{field}.path"), "");
        } else if path.starts_with('/') {
            errors.invalid(&format!("{field}.path"), path, "must be a relative path");
        } else if path.split('/').any(|p| p == "..") {
            errors.invalid(&format!("{field}.path"), path, "must not contain '..'");
        }
    }
    if let Some(mode) = default_mode
        && !(0..=0o777).contains(&mode)
    {
        errors.invalid(
            &format!("{field}.defaultMode"),
            mode,
            "must be a number between 0 and 0777 (octal), both inclusive",
        );
    }
}
