//! `flowctl web`.

use super::Context;
use super::args::Web;
use super::exit::{Exit, Failure};
use super::out::tell;
use super::text::shown;
use crate::api::{ApiError, ErrorCode};
use crate::web::{self, Control, Options, WebError};

pub(super) async fn run(cx: &mut Context<'_>, args: Web) -> Result<Exit, Failure> {
    let token = match &args.token_file {
        None => None,
        Some(path) => {
            let read = tokio::fs::read_to_string(path).await;
            let text = read.map_err(|source| Failure::File {
                operation: "read",
                path: path.clone(),
                source,
            })?;
            Some(text.trim().to_owned())
        }
    };
    let ready = web::serve(Options {
        client: cx.client.clone(),
        clock: cx.clock.clone(),
        listen: args.listen,
        hosts: args.hosts,
        token,
        tls: args.tls_cert.zip(args.tls_key),
        control: if args.allow_control {
            Control::Allowed
        } else {
            Control::ReadOnly
        },
    })
    .map_err(refused)?;
    cx.out.put(&format!("{}\n", ready.url))?;
    cx.out.flush()?;
    match &args.token_file {
        None => tell("open it in a browser; the link works once. Ctrl+C ends the server"),
        Some(path) => tell(&format!(
            "open it in a browser and type the token of {}. Ctrl+C ends the server",
            shown(path)
        )),
    }
    match ready.run().await {
        Ok(never) => match never {},
        Err(error) => Err(Failure::Output(error)),
    }
}

fn refused(error: WebError) -> Failure {
    match &error {
        WebError::Open { .. } => Failure::Usage(error.to_string()),
        WebError::ShortToken(_) => {
            Failure::Usage(format!("{error}; `openssl rand -hex 32` prints a good one"))
        }
        WebError::Listen { .. } | WebError::Tls(_) | WebError::NoRandomness(_) => {
            let mut words = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                if !words.contains(&cause.to_string()) {
                    words.push_str(&format!(": {cause}"));
                }
                source = cause.source();
            }
            Failure::Told(ApiError::new(ErrorCode::Refused, words))
        }
    }
}
