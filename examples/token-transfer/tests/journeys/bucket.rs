//! A lake in a bucket, read over HTTP as S3 speaks it.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use tokio::runtime::Runtime;

use crate::stage::{Program, Stage};

/// Serves a directory as the bucket `ledgers`, until it is dropped.
struct Bucket {
    port: u16,
    served: Arc<Served>,
    _runtime: Runtime,
}

struct Served {
    root: PathBuf,
    /// Takes requests and answers none.
    silent: AtomicBool,
}

impl Bucket {
    fn of(root: PathBuf) -> Self {
        let runtime = Runtime::new().unwrap();
        let served = Arc::new(Served {
            root,
            silent: AtomicBool::new(false),
        });
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        let port = listener.local_addr().unwrap().port();
        let routes = Router::new().fallback(answer).with_state(served.clone());
        runtime.spawn(async move { axum::serve(listener, routes).await });
        Self {
            port,
            served,
            _runtime: runtime,
        }
    }
}

/// What S3 answers to a read and to a listing.
async fn answer(State(bucket): State<Arc<Served>>, uri: Uri) -> Response {
    if bucket.silent.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
    let key = uri.path().strip_prefix("/ledgers").unwrap();
    match key.trim_start_matches('/') {
        "" => bucket.list(uri.query().unwrap_or_default()).into_response(),
        key => match fs::read(bucket.root.join(key)) {
            Ok(bytes) => bytes.into_response(),
            Err(_) => (
                StatusCode::NOT_FOUND,
                "<Error><Code>NoSuchKey</Code></Error>",
            )
                .into_response(),
        },
    }
}

impl Served {
    /// A listing of one folder, by name.
    fn list(&self, query: &str) -> String {
        let mut pairs = url::form_urlencoded::parse(query.as_bytes());
        let prefix = pairs.find(|(name, _)| name == "prefix").unwrap().1;
        let mut entries: Vec<_> = fs::read_dir(self.root.join(&*prefix))
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap())
            .collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        let mut text = String::from("<ListBucketResult><IsTruncated>false</IsTruncated>");
        for entry in entries {
            let key = format!("{prefix}{}", entry.file_name().to_str().unwrap());
            let found = entry.metadata().unwrap();
            if found.is_dir() {
                write!(
                    text,
                    "<CommonPrefixes><Prefix>{key}/</Prefix></CommonPrefixes>"
                )
            } else {
                let size = found.len();
                write!(
                    text,
                    "<Contents><Key>{key}</Key><Size>{size}</Size><ETag>\"1\"</ETag>\
                     <LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
                )
            }
            .unwrap();
        }
        text + "</ListBucketResult>"
    }
}

/// A stage whose source reads the bucket of what lies beside the lake.
fn in_a_bucket(mut stage: Stage) -> (Stage, Bucket) {
    let bucket = Bucket::of(stage.home().join("data"));
    stage.set("STORAGE_TYPE", "S3");
    stage.set("BUCKET_NAME", "ledgers");
    stage.set("ARCHIVE_PATH", "lake");
    let endpoint = format!("http://127.0.0.1:{}", bucket.port);
    stage.set("S3_ENDPOINT_URL", &endpoint);
    stage.set("S3_FORCE_PATH_STYLE", "true");
    stage.set("LAKE_ANONYMOUS", "true");
    stage.set("LAKE_TIMEOUT", "3s");
    (stage, bucket)
}

#[test]
fn a_bucket_that_grows_is_followed_to_its_end() {
    let (mut stage, _bucket) = in_a_bucket(Stage::with_hungry_lake(150));
    stage.feed(50);
    stage.start_all();
    stage.until_written(stage.expected().len() / 4);
    stage.feed_rest();
    stage.verify();
}

#[test]
fn a_bucket_that_does_not_answer_is_told_of_and_costs_no_event() {
    let (mut stage, bucket) = in_a_bucket(Stage::with_lake(300));
    stage.start(Program::Source);
    stage.until_health(Program::Source, "healthy");
    bucket.served.silent.store(true, Ordering::Relaxed);
    let why = stage.until_health(Program::Source, "unhealthy");
    assert!(why.contains("s3://ledgers/lake does not answer"), "{why}");
    // The requests that nobody answered are given up and made again.
    bucket.served.silent.store(false, Ordering::Relaxed);
    stage.until_health(Program::Source, "healthy");
    stage.start(Program::Processor);
    stage.start(Program::Consumer);
    stage.verify();
}
