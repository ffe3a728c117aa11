//! A program that a person runs inside of a container, at the person's own terminal.

use std::io;
use std::pin::Pin;

use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, ResizeExecOptions, StartExecOptions, StartExecResults};
use futures_util::{Stream, StreamExt as _};
use tokio::io::AsyncWrite;

use super::DockerDriver;
use super::engine::{CHANGE, Failure, LOOK};
use super::exec::Running;
use crate::driver::{DriverError, OutputStream};

/// What this is called in errors.
const OPERATION: &str = "run a program in a container";

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Variables beside those of the container, as `NAME=VALUE`.
    pub variables: Vec<String>,
    /// How large the terminal is; `None` = there is none.
    pub terminal: Option<Size>,
}

/// How large a terminal is, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

/// A program that runs. Dropped while it does, it is killed, where the engine is on this host.
pub struct Session {
    running: Running,
    output: Pin<Box<dyn Stream<Item = Result<LogOutput, bollard::errors::Error>> + Send>>,
    /// What it reads; dropped, it is at its end.
    pub input: Pin<Box<dyn AsyncWrite + Send>>,
}

impl DockerDriver {
    /// Begins what `wish` says in a container.
    ///
    /// # Errors
    /// When the engine does not begin it.
    pub async fn attach(&self, container: &str, wish: Wish) -> Result<Session, DriverError> {
        let lost = |failure: Failure| failure.unreachable(OPERATION);
        let wanted = CreateExecOptions {
            cmd: Some(wish.command),
            env: Some(wish.variables),
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(wish.terminal.is_some()),
            ..CreateExecOptions::default()
        };
        let start = StartExecOptions {
            detach: false,
            tty: wish.terminal.is_some(),
            output_capacity: None,
        };
        let begun = self.begin(container.to_owned(), wanted, Some(start));
        let mut running = begun.await.map_err(lost)?;
        let (output, input) = match running.take_output() {
            StartExecResults::Attached { output, input } => (output, input),
            StartExecResults::Detached => {
                let why = "the engine did not hand over its output".to_owned();
                return Err(lost(Failure::Silent(why)));
            }
        };
        let session = Session {
            running,
            output,
            input,
        };
        if let Some(size) = wish.terminal {
            session.resize(size).await?;
        }
        Ok(session)
    }

    /// Who the engine says that it is.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn greet(&self) -> Result<String, DriverError> {
        let engine = &self.inner.engine;
        let answer = engine.call(LOOK, |client| async move { client.version().await });
        let found = answer
            .await
            .map_err(|failure| failure.unreachable("ask the engine who it is"))?;
        let named = found.platform.map(|platform| platform.name);
        let named = named.filter(|name| !name.is_empty());
        Ok(format!(
            "{} {} at {}",
            named.unwrap_or_else(|| "an engine".to_owned()),
            found.version.unwrap_or_default(),
            engine.endpoint()
        ))
    }

    /// The variables of a container, as `NAME=VALUE`; `None` = it is gone.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn variables_of(&self, container: &str) -> Result<Option<Vec<String>>, DriverError> {
        let found = self.inner.engine.container(container).await;
        let found = found.map_err(|failure| failure.unreachable("read a container"))?;
        Ok(found.map(|found| {
            found
                .config
                .and_then(|config| config.env)
                .unwrap_or_default()
        }))
    }
}

impl Session {
    /// The next of what it writes; `None` = it has ended. Cancel-safe.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn next(&mut self) -> io::Result<Option<(OutputStream, Vec<u8>)>> {
        match self.output.next().await {
            None => Ok(None),
            Some(Err(error)) => Err(io::Error::other(error.to_string())),
            Some(Ok(LogOutput::StdErr { message })) => {
                Ok(Some((OutputStream::Stderr, message.to_vec())))
            }
            Some(Ok(
                LogOutput::StdOut { message }
                | LogOutput::Console { message }
                | LogOutput::StdIn { message },
            )) => Ok(Some((OutputStream::Stdout, message.to_vec()))),
        }
    }

    /// Tells it that the terminal has another size.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn resize(&self, size: Size) -> Result<(), DriverError> {
        let (id, engine) = (self.running.id(), self.running.engine());
        let options = ResizeExecOptions {
            height: size.rows,
            width: size.columns,
        };
        let answer = engine
            .call(CHANGE, |client| async move {
                client.resize_exec(id, options).await
            })
            .await;
        match answer {
            Ok(()) => Ok(()),
            // It has ended already, or not begun yet: its size matters to nobody.
            Err(Failure::Answered { .. }) => Ok(()),
            Err(failure) => Err(failure.unreachable(OPERATION)),
        }
    }

    /// How it ended.
    ///
    /// # Errors
    /// When the engine does not say.
    pub async fn exit_code(mut self) -> Result<i64, DriverError> {
        let (id, engine) = (self.running.id(), self.running.engine());
        let ended = engine
            .call(LOOK, |client| async move { client.inspect_exec(id).await })
            .await
            .map_err(|failure| failure.unreachable(OPERATION))?;
        let code = ended.exit_code.ok_or_else(|| {
            Failure::Silent("the engine does not say how it ended".to_owned())
                .unreachable(OPERATION)
        })?;
        self.running.is_over();
        Ok(code)
    }
}
