//! Manifests and indexes of a registry, read strictly: what two readers could take for two things is
//! refused.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::model::image::Digest;

/// The most entries of one document.
const MAX_ENTRIES: usize = 1_000;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// What is asked for: all that is understood.
pub(super) const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// What is wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OciError {
    /// It is no JSON of that form.
    #[error("it is not well formed: {0}")]
    Form(String),
    /// It is of the first schema, whose digests cover too little.
    #[error("it is of schema 1, which is not supported")]
    Old,
    /// It is of a kind that is not known.
    #[error("it says that it is `{0}`")]
    Kind(String),
    /// It is one thing to one reader and another to the next.
    #[error("it could be taken for two things: {0}")]
    Ambiguous(&'static str),
    /// It is too large.
    #[error("it has more than {MAX_ENTRIES} entries")]
    TooMany,
}

/// A manifest or an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// Manifests for several platforms, or about one image.
    Index(Vec<Descriptor>),
    /// One image, or one artifact.
    Manifest(Manifest),
}

/// One image, or one artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// What kind of artifact it says that it is.
    pub artifact_type: Option<String>,
    /// What it is about.
    pub subject: Option<Digest>,
    /// What it consists of.
    pub layers: Vec<Descriptor>,
}

/// Names something by its digest.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// How large it is, in bytes.
    pub size: u64,
    /// What is said about it.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// For which machines it is.
    #[serde(default)]
    pub platform: Option<Platform>,
}

/// For which machines an image is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Platform {
    /// The processor, as Go names it.
    pub architecture: String,
    /// The operating system, as Go names it.
    pub os: String,
    /// The kind of processor.
    #[serde(default)]
    pub variant: Option<String>,
}

/// The one form that both are read from: a doubled field is an error of the reader.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    schema_version: Option<u64>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    #[serde(rename = "fsLayers")]
    old_layers: Option<serde::de::IgnoredAny>,
}

/// Reads what came as `content_type`.
///
/// # Errors
/// What is wrong with it.
pub fn read(bytes: &[u8], content_type: &str) -> Result<Document, OciError> {
    let written: Written =
        serde_json::from_slice(bytes).map_err(|error| OciError::Form(error.to_string()))?;
    if written.schema_version != Some(2) || written.old_layers.is_some() {
        return Err(OciError::Old);
    }
    let came_as = content_type.split(';').next().unwrap_or_default().trim();
    if written
        .media_type
        .as_deref()
        .is_some_and(|says| says != came_as)
    {
        return Err(OciError::Ambiguous(
            "its `mediaType` is not its Content-Type",
        ));
    }
    let is_index = match came_as {
        OCI_INDEX | DOCKER_LIST => true,
        OCI_MANIFEST | DOCKER_MANIFEST => false,
        other => return Err(OciError::Kind(other.to_owned())),
    };
    match (is_index, written) {
        (
            true,
            Written {
                manifests: Some(manifests),
                layers: None,
                config: None,
                ..
            },
        ) => {
            if manifests.len() > MAX_ENTRIES {
                return Err(OciError::TooMany);
            }
            Ok(Document::Index(manifests))
        }
        (
            false,
            Written {
                manifests: None,
                layers: Some(layers),
                artifact_type,
                subject,
                ..
            },
        ) => {
            if layers.len() > MAX_ENTRIES {
                return Err(OciError::TooMany);
            }
            Ok(Document::Manifest(Manifest {
                artifact_type,
                subject: subject.map(|it| it.digest),
                layers,
            }))
        }
        (true, _) => Err(OciError::Ambiguous(
            "it came as an index and is not only that",
        )),
        (false, _) => Err(OciError::Ambiguous(
            "it came as a manifest and is not only that",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000001";

    fn descriptor() -> String {
        format!(r#"{{"mediaType":"x","digest":"{DIGEST}","size":3}}"#)
    }

    #[test]
    fn an_index_and_a_manifest_are_told_apart() {
        let one = descriptor();
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{one}]}}"#);
        let manifest = format!(r#"{{"schemaVersion":2,"config":{one},"layers":[{one}]}}"#);
        assert!(matches!(
            read(index.as_bytes(), OCI_INDEX),
            Ok(Document::Index(_))
        ));
        assert!(matches!(
            read(
                manifest.as_bytes(),
                "application/vnd.oci.image.manifest.v1+json; charset=utf-8"
            ),
            Ok(Document::Manifest(_))
        ));
    }

    #[test]
    fn what_could_be_two_things_is_refused() {
        let one = descriptor();
        for (text, came_as) in [
            // Both at once: CVE-2021-41190.
            (
                format!(r#"{{"schemaVersion":2,"manifests":[{one}],"layers":[{one}]}}"#),
                OCI_INDEX,
            ),
            (
                format!(r#"{{"schemaVersion":2,"manifests":[{one}],"layers":[{one}]}}"#),
                OCI_MANIFEST,
            ),
            (
                format!(r#"{{"schemaVersion":2,"manifests":[{one}],"config":{one}}}"#),
                OCI_INDEX,
            ),
            // It lies about its kind.
            (
                format!(r#"{{"schemaVersion":2,"manifests":[{one}]}}"#),
                OCI_MANIFEST,
            ),
            (
                format!(r#"{{"schemaVersion":2,"layers":[{one}]}}"#),
                OCI_INDEX,
            ),
            (
                format!(
                    r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","manifests":[{one}]}}"#
                ),
                OCI_INDEX,
            ),
            // Doubled.
            (
                format!(r#"{{"schemaVersion":2,"layers":[{one}],"layers":[]}}"#),
                OCI_MANIFEST,
            ),
            // Schema 1.
            (
                r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned(),
                OCI_MANIFEST,
            ),
            (r#"{"layers":[]}"#.to_owned(), OCI_MANIFEST),
            // Behind it, before it, around it.
            (
                format!(r#"{{"schemaVersion":2,"layers":[{one}]}}x"#),
                OCI_MANIFEST,
            ),
            (
                format!("\u{feff}{{\"schemaVersion\":2,\"layers\":[{one}]}}"),
                OCI_MANIFEST,
            ),
            (
                format!(r#"{{"schemaVersion":2,"layers":[{one}]}}"#),
                "application/json",
            ),
            (format!(r#"{{"schemaVersion":2,"layers":[{one}]}}"#), ""),
            // Not sha256, and not in the one form.
            (
                format!(
                    r#"{{"schemaVersion":2,"layers":[{}]}}"#,
                    one.replace("sha256", "sha512")
                ),
                OCI_MANIFEST,
            ),
            (
                format!(
                    r#"{{"schemaVersion":2,"layers":[{}]}}"#,
                    one.replace("1\"", "A\"")
                ),
                OCI_MANIFEST,
            ),
            ("[".repeat(100_000), OCI_MANIFEST),
            (String::new(), OCI_MANIFEST),
        ] {
            let shown: String = text.chars().take(100).collect();
            assert!(
                read(text.as_bytes(), came_as).is_err(),
                "{shown} as {came_as}"
            );
        }
        let many = vec![one; MAX_ENTRIES + 1].join(",");
        let text = format!(r#"{{"schemaVersion":2,"layers":[{many}]}}"#);
        assert_eq!(read(text.as_bytes(), OCI_MANIFEST), Err(OciError::TooMany));
    }
}
