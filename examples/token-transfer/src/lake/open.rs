//! Where a lake is and how its files are laid out, from the environment.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStore;
use object_store::path::Path as Key;
use url::Url;

use super::layout::Layout;
use super::{Lake, LakeError};
use crate::component::env::{Env, SettingError};

/// What object stores are told, as (name for the store, names in the environment).
const STORE_OPTIONS: [(&str, &[&str]); 11] = [
    ("aws_access_key_id", &["AWS_ACCESS_KEY_ID"]),
    ("aws_secret_access_key", &["AWS_SECRET_ACCESS_KEY"]),
    ("aws_session_token", &["AWS_SESSION_TOKEN"]),
    ("aws_region", &["AWS_REGION", "AWS_DEFAULT_REGION"]),
    ("aws_endpoint", &["S3_ENDPOINT_URL", "AWS_ENDPOINT_URL"]),
    (
        "aws_web_identity_token_file",
        &["AWS_WEB_IDENTITY_TOKEN_FILE"],
    ),
    ("aws_role_arn", &["AWS_ROLE_ARN"]),
    (
        "aws_container_credentials_relative_uri",
        &["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"],
    ),
    ("google_service_account", &["GOOGLE_SERVICE_ACCOUNT"]),
    (
        "google_application_credentials",
        &["GOOGLE_APPLICATION_CREDENTIALS"],
    ),
    ("timeout", &["LAKE_TIMEOUT"]),
];

/// Where a lake is, and how it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LakeSettings {
    /// A directory, or the URL of a bucket.
    pub location: String,
    /// What the object store is told: credentials, region, endpoint.
    pub options: Vec<(String, String)>,
    /// The layout, when it is given rather than read from the lake.
    pub layout: Option<Layout>,
    /// How often a follower looks for the next file.
    pub poll: Duration,
}

impl LakeSettings {
    /// The lake in `directory`, its layout being what the lake itself says.
    pub fn directory(directory: &Path) -> Self {
        Self {
            location: directory.display().to_string(),
            options: Vec::new(),
            layout: None,
            poll: Duration::from_millis(200),
        }
    }

    /// Reads the settings from the environment.
    ///
    /// # Errors
    /// The lake's place is missing, or a variable can't be understood.
    pub fn from_env(env: &Env) -> Result<Self, SettingError> {
        let kind = env.with(&["STORAGE_TYPE", "ARCHIVE_STORAGE_TYPE"], |kind| match kind
            .to_ascii_uppercase()
            .as_str()
        {
            "FS" | "LOCAL" => Ok(None),
            "S3" => Ok(Some("s3")),
            "GCS" | "GS" => Ok(Some("gs")),
            _ => Err("it has to be FS, S3 or GCS".to_owned()),
        })?;
        let meaning = "a directory, a bucket, or a URL such as s3://bucket/prefix";
        let names = ["BUCKET_NAME", "ARCHIVE_BUCKET_NAME", "LAKE_URL"];
        let mut location = env.required(&names, meaning)?;
        if let Some(path) = env.text(&["ARCHIVE_PATH"]) {
            location = format!(
                "{}/{}",
                location.trim_end_matches('/'),
                path.trim_matches('/')
            );
        }
        if let (Some(scheme), false) = (kind.flatten(), location.contains("://")) {
            location = format!("{scheme}://{location}");
        }
        let ledgers = env.parsed::<u32>(&["LEDGERS_PER_FILE"])?;
        let files = env.parsed::<u32>(&["FILES_PER_PARTITION"])?;
        let layout = match (ledgers, files) {
            (None, None) => None,
            // A lake without folders is written as one file, or none, in each.
            (ledgers, files) => {
                Layout::new(ledgers.unwrap_or(64).max(1), files.unwrap_or(10).max(1))
            }
        };
        let poll = env
            .duration(&["LAKE_POLL_INTERVAL"])?
            .filter(|poll| !poll.is_zero());
        Ok(Self {
            location,
            options: store_options(env),
            layout,
            poll: poll.unwrap_or(Duration::from_millis(500)),
        })
    }

    /// Opens the lake. Nothing is read yet: a lake may come to be later.
    ///
    /// # Errors
    /// The location is neither a path nor the URL of a known kind of store.
    pub fn open(&self) -> Result<Lake, LakeError> {
        let unusable = |reason: String| LakeError::Unusable {
            lake: self.location.clone(),
            reason,
        };
        if !self.location.contains("://") {
            return Ok(Lake::directory(PathBuf::from(&self.location), self.layout));
        }
        let url = Url::parse(&self.location).map_err(|error| unusable(error.to_string()))?;
        if url.scheme() == "file" {
            let path = url
                .to_file_path()
                .map_err(|()| unusable("not a local path".to_owned()))?;
            return Ok(Lake::directory(path, self.layout));
        }
        let (store, root) = self
            .store(&url)
            .map_err(|error| unusable(error.to_string()))?;
        Ok(Lake::bucket(
            self.location.clone(),
            store,
            root,
            self.layout,
        ))
    }

    fn store(&self, url: &Url) -> Result<(Arc<dyn ObjectStore>, Key), object_store::Error> {
        // The second call of a process finds a provider installed, which is as good.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let (store, root) = object_store::parse_url_opts(url, self.options.clone())?;
        Ok((Arc::from(store), root))
    }
}

fn store_options(env: &Env) -> Vec<(String, String)> {
    let known = STORE_OPTIONS.iter();
    let mut options: Vec<(String, String)> = known
        .filter_map(|(name, variables)| Some(((*name).to_owned(), env.text(variables)?)))
        .collect();
    let mut switch = |name: &str, value: bool| options.push((name.to_owned(), value.to_string()));
    if env.flag(&["LAKE_ANONYMOUS"]) {
        switch("aws_skip_signature", true);
        switch("google_skip_signature", true);
    }
    if env.flag(&["S3_FORCE_PATH_STYLE"]) {
        switch("aws_virtual_hosted_style_request", false);
    }
    let endpoint = env.text(&["S3_ENDPOINT_URL", "AWS_ENDPOINT_URL"]);
    if endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")) {
        switch("allow_http", true);
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<LakeSettings, SettingError> {
        let lookup = |name: &str| {
            pairs
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        };
        LakeSettings::from_env(&Env::new(&lookup))
    }

    #[test]
    fn a_directory_a_bucket_and_a_url_all_name_a_lake() {
        let at = |pairs: &[_]| read(pairs).unwrap().location;
        assert_eq!(
            at(&[("STORAGE_TYPE", "FS"), ("BUCKET_NAME", "/lake")]),
            "/lake"
        );
        assert_eq!(
            at(&[("STORAGE_TYPE", "S3"), ("BUCKET_NAME", "b/p")]),
            "s3://b/p"
        );
        let archive = [
            ("ARCHIVE_STORAGE_TYPE", "GCS"),
            ("ARCHIVE_BUCKET_NAME", "b"),
            ("ARCHIVE_PATH", "landing/ledgers"),
        ];
        assert_eq!(at(&archive), "gs://b/landing/ledgers");
        assert_eq!(at(&[("BUCKET_NAME", "s3://b/p")]), "s3://b/p");
    }

    #[test]
    fn without_a_place_the_error_names_the_variables() {
        let error = read(&[]).unwrap_err().to_string();
        assert!(
            error.starts_with("BUCKET_NAME or ARCHIVE_BUCKET_NAME or LAKE_URL"),
            "{error}"
        );
    }

    #[test]
    fn the_layout_is_left_to_the_lake_unless_it_is_given() {
        assert_eq!(read(&[("BUCKET_NAME", "x")]).unwrap().layout, None);
        let given = [
            ("BUCKET_NAME", "x"),
            ("LEDGERS_PER_FILE", "1"),
            ("FILES_PER_PARTITION", "0"),
        ];
        assert_eq!(read(&given).unwrap().layout, Layout::new(1, 1));
    }

    #[test]
    fn an_unknown_kind_of_store_is_an_error_that_names_it() {
        let error = read(&[("STORAGE_TYPE", "TAPE"), ("BUCKET_NAME", "x")]).unwrap_err();
        assert!(error.to_string().contains("STORAGE_TYPE=TAPE"), "{error}");
        let ftp = LakeSettings {
            location: "ftp://host/x".to_owned(),
            ..read(&[("BUCKET_NAME", "x")]).unwrap()
        };
        assert!(matches!(ftp.open(), Err(LakeError::Unusable { .. })));
    }
}
