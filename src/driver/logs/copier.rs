//! The task that copies what an instance writes into our log files, where an engine keeps its output.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// A task that copies. It ends when this is dropped.
#[derive(Debug)]
pub(in crate::driver) struct Copier {
    task: JoinHandle<()>,
    /// Cancelled once it has ended, however that came.
    done: CancellationToken,
}

impl Copier {
    /// Begins to copy. Call it inside a tokio runtime.
    pub(in crate::driver) fn spawn(copying: impl Future<Output = ()> + Send + 'static) -> Self {
        let done = CancellationToken::new();
        let says_so = done.clone().drop_guard();
        let task = tokio::spawn(async move {
            copying.await;
            drop(says_so);
        });
        Self { task, done }
    }

    /// Whether all is copied that will be.
    pub(in crate::driver) fn is_done(&self) -> bool {
        self.done.is_cancelled()
    }

    /// Waits until all is copied; false when it is not yet `within` that time. The copier stays known
    /// meanwhile: a second one would copy the same lines.
    pub(in crate::driver) fn done_within(
        &self,
        within: Duration,
    ) -> impl Future<Output = bool> + use<> {
        let done = self.done.clone();
        async move { timeout(within, done.cancelled()).await.is_ok() }
    }
}

impl Drop for Copier {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Runs `work`, which is about log files, on a thread that may block.
///
/// # Errors
/// What kept it from its work, in words.
pub(in crate::driver) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(format!("cannot write its log: {error}")),
        Err(error) => Err(error.to_string()),
    }
}
