//! Looks at how far the work of instances gets, where that shows in their log or in what they answer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

use super::{Host, Target, Trouble, http};
use crate::model::{HttpTarget, InstanceId, Progress, Timestamp, Watches};
use crate::planner::progress::Shown;

/// So many are looked at at one time.
const MAX_LOOKS: usize = 8;
/// What stands still is looked at so often before it has done so for too long.
const LOOKS: u32 = 8;
/// No more often than this.
const LEAST_PERIOD: Duration = Duration::from_millis(250);
/// At least this often.
const MOST_PERIOD: Duration = Duration::from_secs(30);
/// An answer is waited for so long.
const PATIENCE: Duration = Duration::from_secs(5);

/// When the last line of an instance's log was written; `None` = there is none. It blocks, on the
/// disk at most.
pub type LastLine = Arc<dyn Fn(&InstanceId) -> Option<Timestamp> + Send + Sync>;

/// Told what an instance shows of its work, whenever that has changed.
pub type Tell = Arc<dyn Fn(InstanceId, Shown) + Send + Sync>;

/// Looks at instances until it is dropped.
pub struct Observer {
    last_line: LastLine,
    tell: Tell,
    places: Arc<Semaphore>,
    looking: HashMap<InstanceId, AbortOnDropHandle<()>>,
}

impl Observer {
    /// One that looks at nobody yet.
    pub fn new(last_line: LastLine, tell: Tell) -> Self {
        Self {
            last_line,
            tell,
            places: Arc::new(Semaphore::new(MAX_LOOKS)),
            looking: HashMap::new(),
        }
    }

    /// Looks at the work of `instance` from now on. Its figures come with heartbeats and are none of
    /// this.
    pub fn watch(&mut self, instance: InstanceId, progress: Progress, target: Arc<Target>) {
        let period = (progress.max_age.get() / LOOKS).clamp(LEAST_PERIOD, MOST_PERIOD);
        let (last_line, tell) = (Arc::clone(&self.last_line), Arc::clone(&self.tell));
        let places = Arc::clone(&self.places);
        let of = instance.clone();
        let task = tokio::spawn(async move {
            let mut told = None;
            loop {
                let shown = {
                    // It is never closed.
                    let _place = places.acquire().await;
                    match &progress.watches {
                        Watches::Metric(_) => return,
                        Watches::Output => last_output(&last_line, &of).await,
                        Watches::Http {
                            target: at,
                            pointer,
                        } => Some(answer(&target, at, pointer.as_deref()).await),
                    }
                };
                if shown != told
                    && let Some(shown) = shown
                {
                    tell(of.clone(), shown.clone());
                    told = Some(shown);
                }
                tokio::time::sleep(period).await;
            }
        });
        self.looking.insert(instance, AbortOnDropHandle::new(task));
    }

    /// Looks at it no more.
    pub fn forget(&mut self, instance: &InstanceId) {
        self.looking.remove(instance);
    }
}

async fn last_output(last_line: &LastLine, instance: &InstanceId) -> Option<Shown> {
    let (last_line, instance) = (Arc::clone(last_line), instance.clone());
    // A panic has been told; the next look may see more.
    let looked = tokio::task::spawn_blocking(move || last_line(&instance)).await;
    looked.ok().flatten().map(Shown::Written)
}

/// What is answered there, or why nothing is.
async fn answer(target: &Target, at: &HttpTarget, pointer: Option<&str>) -> Shown {
    let asking = async {
        let named = at.host.as_deref().map(Host::from);
        let door = target.ports.door(named, at.port.number())?;
        http::body(&door, &at.path).await
    };
    let answered = match tokio::time::timeout(PATIENCE, asking).await {
        Ok(Ok(body)) => value(&body, pointer),
        Ok(Err(Trouble::Component(why))) => Err(why),
        Ok(Err(Trouble::Prober(error))) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    };
    answered.map_or_else(Shown::Nothing, Shown::Value)
}

/// The value that `pointer` names in an answer, or the whole of it, as text.
fn value(body: &[u8], pointer: Option<&str>) -> Result<String, String> {
    let Some(pointer) = pointer else {
        let text = String::from_utf8_lossy(body);
        return match text.trim() {
            "" => Err("the answer is empty".to_owned()),
            text => Ok(text.to_owned()),
        };
    };
    let answer: Value =
        serde_json::from_slice(body).map_err(|_| "the answer is no JSON".to_owned())?;
    match answer.pointer(pointer) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(value.to_string()),
        Some(Value::Null) | None => Err(format!("the answer has no {pointer}")),
        Some(Value::Array(_) | Value::Object(_)) => {
            Err(format!("{pointer} of the answer is not a single value"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_in_an_answer_or_it_is_told_why_not() {
        let body = br#"{"stats": {"last": 52114908, "name": "a", "list": [1], "none": null}}"#;
        for (pointer, found) in [
            (Some("/stats/last"), Ok("52114908")),
            (Some("/stats/name"), Ok("a")),
            (Some("/stats/list/0"), Ok("1")),
            (Some("/stats/none"), Err("the answer has no /stats/none")),
            (Some("/stats/lst"), Err("the answer has no /stats/lst")),
            (
                Some("/stats"),
                Err("/stats of the answer is not a single value"),
            ),
        ] {
            let read = value(body, pointer);
            assert_eq!(read.as_deref().map_err(String::as_str), found);
        }
        assert_eq!(value(b" 17\n", None), Ok("17".to_owned()));
        assert_eq!(value(b"\n", None), Err("the answer is empty".to_owned()));
        let read = value(b"17 apples", Some("/a"));
        assert_eq!(read, Err("the answer is no JSON".to_owned()));
    }
}
