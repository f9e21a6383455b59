// SPDX-License-Identifier: Apache-2.0
//! Finds the images of an OCI layout (`index.json`) or a docker archive (`manifest.json`).
//!
//! Not here: reading the files (`archive`), importing what is found (`import`).

use sha2::{Digest, Sha256};

use super::manifest::{Descriptor, DockerImage, Document};
use super::source::{Found, Source, check, parse, required};
use super::text::quoted;
use super::{ImageError, ImageName, is_digest};

/// An index may point to an index. No known tool nests deeper than twice.
const INDEX_DEPTH_MAX: usize = 4;

/// The images for this machine that a layout or archive holds.
pub(super) fn find_images(source: &dyn Source) -> Result<Vec<Found>, ImageError> {
    let images = if let Some(bytes) = source.document("index.json")? {
        let document: Document = parse(source, "index.json", &bytes)?;
        let mut found = Vec::new();
        for descriptor in document.manifests.iter().flatten() {
            found.extend(find_oci(source, descriptor, INDEX_DEPTH_MAX)?);
        }
        found
    } else if let Some(bytes) = source.document("manifest.json")? {
        let images: Vec<DockerImage> = parse(source, "manifest.json", &bytes)?;
        images
            .into_iter()
            .map(|image| {
                let tags = image.repo_tags.unwrap_or_default();
                let names = tags.iter().map(|tag| ImageName::parse(tag));
                Ok(Found {
                    names: names.collect::<Result<_, _>>()?,
                    config: (image.config, None),
                    layers: image.layers.into_iter().map(|l| (l, None)).collect(),
                })
            })
            .collect::<Result<_, ImageError>>()?
    } else {
        return Err(ImageError::invalid(
            source.path(),
            "neither an OCI layout (index.json) nor a docker archive (manifest.json)",
        ));
    };
    if images.is_empty() {
        return Err(ImageError::invalid(
            source.path(),
            format!(
                "it holds no image for linux/{}",
                super::manifest::architecture()
            ),
        ));
    }
    Ok(images)
}

/// Follows a descriptor of an index to the manifest for this machine, if there is one.
fn find_oci(
    source: &dyn Source,
    descriptor: &Descriptor,
    depth: usize,
) -> Result<Option<Found>, ImageError> {
    if !descriptor.fits() {
        return Ok(None);
    }
    let file = blob_name(source, &descriptor.digest)?;
    let bytes = required(source, &file)?;
    check(source, &file, &descriptor.digest, &Sha256::digest(&bytes))?;
    let document: Document = parse(source, &file, &bytes)?;
    let names = match descriptor.name() {
        Some(name) => vec![ImageName::parse(name)?],
        None => Vec::new(),
    };
    if let (Some(config), Some(layers)) = (document.config, document.layers) {
        if config.media_type.contains("in-toto") || config.media_type.contains("attestation") {
            return Ok(None);
        }
        let layers = layers
            .into_iter()
            .map(|l| Ok((blob_name(source, &l.digest)?, Some(l.digest))));
        return Ok(Some(Found {
            names,
            config: (blob_name(source, &config.digest)?, Some(config.digest)),
            layers: layers.collect::<Result<_, ImageError>>()?,
        }));
    }
    let Some(manifests) = document.manifests else {
        return Err(ImageError::invalid(
            source.path(),
            format!("{file} is neither an image index nor an image manifest"),
        ));
    };
    if depth == 0 {
        return Err(ImageError::invalid(
            source.path(),
            "its indexes are nested too deeply",
        ));
    }
    for inner in &manifests {
        if let Some(mut found) = find_oci(source, inner, depth - 1)? {
            if !names.is_empty() {
                found.names = names;
            }
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// `blobs/sha256/HEX` for a digest, which therefore can be nothing but a digest.
fn blob_name(source: &dyn Source, digest: &str) -> Result<String, ImageError> {
    match digest.strip_prefix("sha256:") {
        Some(hex) if is_digest(digest) => Ok(format!("blobs/sha256/{hex}")),
        _ => Err(ImageError::invalid(
            source.path(),
            format!("{} is not a sha256 digest", quoted(digest.as_bytes())),
        )),
    }
}
