//! Who waits for shims to end: one descriptor that is readable when any of them did.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::Timespec;

use crate::driver::Hints;
use crate::model::InstanceId;

use super::sys;

/// A process that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Post(u64);

/// Watches processes and raises a hint when one ends.
pub(super) struct Sentry {
    /// Held while events are taken out: whoever comes second finds all that the first took noted.
    queue: Mutex<OwnedFd>,
    posts: Mutex<Posts>,
    hints: Hints,
}

#[derive(Default)]
struct Posts {
    last: u64,
    alive: HashMap<u64, (InstanceId, Arc<OwnedFd>)>,
}

impl Sentry {
    /// A sentry that watches nothing yet and raises `hints`.
    pub(super) fn new(hints: Hints) -> io::Result<Self> {
        Ok(Self {
            queue: Mutex::new(epoll::create(CreateFlags::CLOEXEC)?),
            posts: Mutex::default(),
            hints,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Posts> {
        self.posts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self) -> MutexGuard<'_, OwnedFd> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches the process behind `pidfd`, which guards `instance`.
    pub(super) fn watch(&self, instance: InstanceId, pidfd: Arc<OwnedFd>) -> io::Result<Post> {
        let queue = self.queue();
        let mut posts = self.lock();
        posts.last += 1;
        let post = posts.last;
        epoll::add(&*queue, &pidfd, EventData::new_u64(post), EventFlags::IN)?;
        posts.alive.insert(post, (instance, pidfd));
        Ok(Post(post))
    }

    /// Stops watching.
    pub(super) fn dismiss(&self, post: Post) {
        self.remove(&self.queue(), post.0);
    }

    /// Whether the process has not ended, as far as [`Sentry::collect`] has seen.
    pub(super) fn is_alive(&self, post: Post) -> bool {
        self.lock().alive.contains_key(&post.0)
    }

    fn remove(&self, queue: &OwnedFd, post: u64) -> Option<InstanceId> {
        let (instance, pidfd) = self.lock().alive.remove(&post)?;
        if let Err(error) = epoll::delete(queue, &pidfd) {
            tracing::debug!(%instance, %error, "a process descriptor was not watched");
        }
        Some(instance)
    }

    /// Takes note of all that has ended by now.
    pub(super) fn collect(&self) {
        let queue = self.queue();
        let mut events = [Event {
            flags: EventFlags::empty(),
            data: EventData::new_u64(0),
        }; 64];
        loop {
            let count = match epoll::wait(&*queue, &mut events, Some(&Timespec::default())) {
                Ok(count) => count,
                Err(Errno::INTR) => continue,
                Err(error) => {
                    tracing::error!(%error, "cannot wait for processes to end");
                    return;
                }
            };
            for event in &events[..count] {
                if let Some(instance) = self.remove(&queue, event.data.u64()) {
                    self.hints.raise(instance);
                }
            }
            if count < events.len() {
                return;
            }
        }
    }

    /// Takes note of every end as it comes, for ever.
    pub(super) async fn keep_collecting(self: Arc<Self>) {
        let queue = self.queue().try_clone().and_then(sys::waitable);
        let queue = match queue {
            Ok(queue) => queue,
            Err(error) => {
                tracing::error!(%error, "ends of processes are only seen at the next full look");
                return;
            }
        };
        // Cancel-safe: what has ended stays in the queue until it is collected.
        while let Ok(mut ready) = queue.readable().await {
            // Cleared before the look, so that an end during it wakes us again.
            ready.clear_ready();
            self.collect();
        }
    }
}
