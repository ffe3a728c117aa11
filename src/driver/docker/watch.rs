//! The engine's event stream, as hints. It may lose and repeat; the next look is the truth.

use std::sync::Arc;
use std::time::Duration;

use bollard::errors::Error;
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptions;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;

use super::Inner;
use super::engine::{Failure, LOOK, Quiet};
use super::identity;

/// The first pause after a stream ended; doubled up to the longest.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

impl Inner {
    /// Listens for ever, through engines that come and go.
    pub(super) async fn keep_watching(self: Arc<Self>) {
        let mut pause = SHORTEST_PAUSE;
        loop {
            let heard = self.listen().await;
            self.outages.began(self.clock.now());
            pause = if heard {
                SHORTEST_PAUSE
            } else {
                (pause * 2).min(LONGEST_PAUSE)
            };
            // What happened meanwhile was not told.
            self.doubt_everything();
            tokio::time::sleep(pause).await;
            if self.answers().await {
                self.outages.ended(self.clock.now());
            }
        }
    }

    async fn answers(&self) -> bool {
        let answer = self
            .engine
            .call(LOOK, |client| async move { client.ping().await })
            .await;
        answer.is_ok()
    }

    /// Listens until the engine goes; true when anything was heard.
    async fn listen(&self) -> bool {
        let mut heard = false;
        while let Ok(mut events) = self.events() {
            loop {
                match self.engine.heard(events.next()).await {
                    Ok(Some(Ok(event))) => self.hear(event),
                    Ok(Some(Err(_)) | None) => return heard,
                    Err(Quiet) if self.answers().await => break,
                    Err(Quiet) => return heard,
                }
                heard = true;
            }
        }
        heard
    }

    fn events(&self) -> Result<BoxStream<'static, Result<EventMessage, Error>>, Failure> {
        let client = self.engine.client()?;
        let mut filters = identity::owned_by(&self.config.owner);
        filters.insert("type".to_owned(), vec!["container".to_owned()]);
        let options = EventsOptions {
            filters: Some(filters),
            ..EventsOptions::default()
        };
        Ok(client.events(Some(options)).boxed())
    }

    fn hear(&self, event: EventMessage) {
        let Some(actor) = event.actor else { return };
        if let Some(id) = &actor.id {
            self.album().doubt(id);
        }
        let instance = actor.attributes.as_ref().and_then(identity::instance);
        if let Some(instance) = instance {
            self.hints.raise(instance);
        }
    }

    fn doubt_everything(&self) {
        let instances = self.album().instances();
        self.album().doubt_all();
        for instance in instances {
            self.hints.raise(instance);
        }
    }
}
