//! Ledgers of a lake in order: what is there read ahead, the next one waited for.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::sync::mpsc::Sender;
use tokio::time::Instant;

use super::layout::{Layout, Span};
use super::{GAP_GRACE, Lake, LakeError, RawLedger};

/// Files that are read before they are asked for.
const AHEAD: usize = 8;

/// How long a damaged file is read again: whoever writes the lake may not be done with it.
const DAMAGE_GRACE: Duration = Duration::from_secs(1);

/// A follower lists the lake after this many looks for the next file, to notice a gap.
const LOOKS_PER_LISTING: u32 = 10;

/// Distance between two looks at a file that is missing or damaged.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Reads a stretch of ledgers, each exactly once and in order.
#[derive(Debug)]
pub struct Reader {
    lake: Arc<Lake>,
    poll: Duration,
}

/// Why reading ended early.
enum Stop {
    /// Nobody reads the ledgers any more.
    Gone,
    /// The lake can't hand out the next ledger.
    Failed(LakeError),
}

impl From<LakeError> for Stop {
    fn from(error: LakeError) -> Self {
        Self::Failed(error)
    }
}

/// What a reader does, for those who watch it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// It handed out this ledger.
    Delivered(u32),
    /// It has handed out all that is there, and waits for this ledger.
    WaitingFor(u32),
}

type Out = Sender<Result<RawLedger, LakeError>>;

impl Reader {
    /// A reader of `lake` that looks for new files every `poll`.
    pub fn new(lake: Arc<Lake>, poll: Duration) -> Self {
        Self { lake, poll }
    }

    /// Sends the ledgers from `start` to `end` (or for ever) into `out`, waiting when it is full.
    /// An error is sent as the last item. `watch` hears what happens.
    pub async fn run(&self, start: u32, end: Option<u32>, out: Out, watch: impl Fn(Sign)) {
        match self.read(start, end, &out, &watch).await {
            Ok(()) | Err(Stop::Gone) => {}
            // Whoever has gone meanwhile does not miss it.
            Err(Stop::Failed(error)) => drop(out.send(Err(error)).await),
        }
    }

    async fn read(
        &self,
        start: u32,
        end: Option<u32>,
        out: &Out,
        watch: &impl Fn(Sign),
    ) -> Result<(), Stop> {
        let layout = self.lake.layout().await?;
        let end = end.unwrap_or(u32::MAX);
        let mut next = start;
        while next <= end {
            let tip = self.lake.tip().await?.unwrap_or(0);
            if next <= tip {
                next = self
                    .read_known(layout, next, tip.min(end), end, out, watch)
                    .await?;
                continue;
            }
            watch(Sign::WaitingFor(next));
            if let Some(ledgers) = self.wait_for(layout, next, out).await? {
                next = self
                    .hand_out(layout, ledgers, next, end, out, watch)
                    .await?;
            }
        }
        Ok(())
    }

    /// Waits a while for the file of `next`. The answer `None` means that it is time to see whether
    /// the lake went on without it.
    async fn wait_for(
        &self,
        layout: Layout,
        next: u32,
        out: &Out,
    ) -> Result<Option<Vec<RawLedger>>, Stop> {
        for _ in 0..LOOKS_PER_LISTING {
            tokio::select! {
                () = tokio::time::sleep(self.poll) => {}
                () = out.closed() => return Err(Stop::Gone),
            }
            match self.lake.file(layout, layout.file_of(next)).await {
                Ok(Some(ledgers)) => return Ok(Some(ledgers)),
                Ok(None) => {}
                // Known files are read with patience for damage, so leave it to that.
                Err(LakeError::Damaged { .. }) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// Reads the files from that of `next` up to that of `tip`, several at a time, and says which
    /// ledger comes after them.
    async fn read_known(
        &self,
        layout: Layout,
        mut next: u32,
        tip: u32,
        end: u32,
        out: &Out,
        watch: &impl Fn(Sign),
    ) -> Result<u32, Stop> {
        let first = layout.file_of(next);
        let size = layout.ledgers_per_file.get() as usize;
        let spans = (first.first..=tip)
            .step_by(size)
            .map(|ledger| layout.file_of(ledger));
        let mut files = stream::iter(spans)
            .map(|span| self.existing(layout, span))
            .buffered(AHEAD);
        while let Some(ledgers) = files.next().await {
            next = self
                .hand_out(layout, ledgers?, next, end, out, watch)
                .await?;
        }
        Ok(next)
    }

    /// A file that has to be there since the lake reaches beyond it.
    async fn existing(&self, layout: Layout, span: Span) -> Result<Vec<RawLedger>, LakeError> {
        let begin = Instant::now();
        loop {
            match self.lake.file(layout, span).await {
                Ok(Some(ledgers)) => return Ok(ledgers),
                Ok(None) if begin.elapsed() >= GAP_GRACE => {
                    // The tip may have moved back: an emptied lake has no gap.
                    let tip = self.lake.tip().await?.unwrap_or(0);
                    return Err(LakeError::Gap {
                        lake: self.lake.location().to_owned(),
                        ledger: span.first,
                        key: layout.key(span),
                        tip,
                    });
                }
                Err(error @ LakeError::Damaged { .. }) if begin.elapsed() >= DAMAGE_GRACE => {
                    return Err(error);
                }
                Ok(None) | Err(LakeError::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Sends the ledgers of one file that lie between `next` and `end`, and says what comes next.
    async fn hand_out(
        &self,
        layout: Layout,
        ledgers: Vec<RawLedger>,
        mut next: u32,
        end: u32,
        out: &Out,
        watch: &impl Fn(Sign),
    ) -> Result<u32, Stop> {
        let wanted = next..=end;
        for ledger in ledgers
            .into_iter()
            .filter(|ledger| wanted.contains(&ledger.sequence))
        {
            let sequence = ledger.sequence;
            if sequence != next {
                let key = layout.key(layout.file_of(next));
                let reason = format!("it begins with ledger {sequence}, after ledger {next}");
                return Err(LakeError::Damaged { key, reason }.into());
            }
            out.send(Ok(ledger)).await.map_err(|_| Stop::Gone)?;
            watch(Sign::Delivered(sequence));
            next = sequence + 1;
        }
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;
    use object_store::path::Path as Key;
    use object_store::{ObjectStore, ObjectStoreExt};

    use super::super::LakeSettings;
    use super::*;
    use crate::generator::LakePlan;

    /// The sequences read from a lake, and the error at the end if there is one.
    async fn read(lake: Lake, start: u32, end: u32) -> (Vec<u32>, Option<LakeError>) {
        let reader = Reader::new(Arc::new(lake), Duration::from_millis(10));
        let (out, mut ledgers) = tokio::sync::mpsc::channel(4);
        tokio::spawn(async move { reader.run(start, Some(end), out, |_| {}).await });
        let mut found = Vec::new();
        while let Some(ledger) = ledgers.recv().await {
            match ledger {
                Ok(ledger) => found.push(ledger.sequence),
                Err(error) => return (found, Some(error)),
            }
        }
        (found, None)
    }

    fn plan(ledgers_per_file: u32, files_per_partition: u32, last: u32) -> LakePlan {
        let layout = Layout::new(ledgers_per_file, files_per_partition).unwrap();
        LakePlan {
            layout,
            last,
            ..LakePlan::of(1)
        }
    }

    #[tokio::test]
    async fn every_layout_yields_the_same_ledgers_in_order() {
        for (ledgers, files) in [(1, 1), (1, 10), (8, 4), (64, 1)] {
            let folder = tempfile::tempdir().unwrap();
            plan(ledgers, files, 127).make(folder.path()).unwrap();
            let lake = LakeSettings::directory(folder.path()).open().unwrap();
            let (found, error) = read(lake, 5, 100).await;
            assert_eq!(
                (found, error),
                ((5..=100).collect(), None),
                "{ledgers} and {files}"
            );
        }
    }

    #[tokio::test]
    async fn a_bucket_is_read_like_a_directory_and_a_hole_in_it_is_a_gap() {
        let folder = tempfile::tempdir().unwrap();
        let plan = plan(1, 10, 45);
        plan.make(folder.path()).unwrap();
        let store = Arc::new(InMemory::new());
        for ledger in (2..=45).filter(|ledger| *ledger != 33) {
            let key = plan.layout.key(plan.layout.file_of(ledger));
            let bytes = std::fs::read(folder.path().join(format!("{key}.xdr.zstd"))).unwrap();
            // Buckets mostly use the shorter ending.
            let key = Key::from(format!("some/prefix/{key}.xdr.zst"));
            store.put(&key, bytes.into()).await.unwrap();
        }
        let bucket = || {
            let store: Arc<dyn ObjectStore> = store.clone();
            let root = Key::from("some/prefix");
            Lake::bucket(
                "memory:///some/prefix".to_owned(),
                store,
                root,
                Some(plan.layout),
            )
        };
        assert_eq!(bucket().tip().await, Ok(Some(45)));
        assert_eq!(read(bucket(), 34, 45).await, ((34..=45).collect(), None));
        let (found, error) = read(bucket(), 2, 45).await;
        assert_eq!(found, (2..=32).collect::<Vec<_>>());
        assert!(
            matches!(
                error,
                Some(LakeError::Gap {
                    ledger: 33,
                    tip: 45,
                    ..
                })
            ),
            "{error:?}"
        );
    }
}
