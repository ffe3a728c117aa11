//! What runners tell about runs and chunks: kept for whoever asks, decided upon by nobody.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::model::{ChunkRecord, RunChange, RunRecord, Teller, Timestamp};

/// Runs that are kept; those that nobody of here told of go first, then ended ones, then the oldest.
const MAX_RUNS: usize = 256;
/// Chunks that are kept; those of nobody here go first, then the ones that nobody told of for longest.
const MAX_CHUNKS: usize = 4096;

/// Something that a runner told.
#[derive(Clone, Debug, PartialEq)]
pub enum Note {
    /// Of a run.
    Run(RunRecord),
    /// Of a chunk.
    Chunk(ChunkRecord),
}

/// Of what a note is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoteKey {
    /// Of this run.
    Run(String),
    /// Of this chunk.
    Chunk(String),
}

impl Note {
    /// Of what it is.
    pub fn key(&self) -> NoteKey {
        match self {
            Self::Run(run) => NoteKey::Run(run.id.clone()),
            Self::Chunk(chunk) => NoteKey::Chunk(chunk.id.clone()),
        }
    }

    /// Says who told of it first.
    pub(super) fn told_by(&mut self, teller: Option<Teller>) {
        match self {
            Self::Run(run) => run.teller = teller,
            Self::Chunk(chunk) => chunk.teller = teller,
        }
    }
}

impl fmt::Display for NoteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run(id) => write!(f, "run `{}`", id.escape_default()),
            Self::Chunk(id) => write!(f, "chunk `{}`", id.escape_default()),
        }
    }
}

/// All that runners told. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Notes {
    /// Runs by id.
    pub runs: Arc<BTreeMap<String, Arc<RunRecord>>>,
    /// Chunks by id.
    pub chunks: Arc<BTreeMap<String, Arc<ChunkRecord>>>,
}

impl Notes {
    /// The notes that were kept.
    pub(super) fn new(kept: Vec<Note>) -> Self {
        let (mut runs, mut chunks) = (BTreeMap::new(), BTreeMap::new());
        for note in kept {
            match note {
                Note::Run(run) => _ = runs.insert(run.id.clone(), Arc::new(run)),
                Note::Chunk(chunk) => _ = chunks.insert(chunk.id.clone(), Arc::new(chunk)),
            }
        }
        Self {
            runs: Arc::new(runs),
            chunks: Arc::new(chunks),
        }
    }

    /// Takes a note in; answers with the keys of what was pushed out for it.
    pub(super) fn put(&mut self, note: Note) -> Vec<NoteKey> {
        let mut gone = Vec::new();
        match note {
            Note::Run(run) => {
                let runs = Arc::make_mut(&mut self.runs);
                runs.insert(run.id.clone(), Arc::new(run));
                while runs.len() > MAX_RUNS {
                    let oldest = runs
                        .values()
                        .min_by_key(|run| {
                            let of_here = is_of_here(run.teller.as_ref());
                            (of_here, !run.state.has_ended(), run.started_at)
                        })
                        .map(|run| run.id.clone());
                    let Some(id) = oldest else { break };
                    runs.remove(&id);
                    gone.push(NoteKey::Run(id));
                }
            }
            Note::Chunk(chunk) => {
                let chunks = Arc::make_mut(&mut self.chunks);
                chunks.insert(chunk.id.clone(), Arc::new(chunk));
                while chunks.len() > MAX_CHUNKS {
                    let oldest = chunks
                        .values()
                        .min_by_key(|chunk| (is_of_here(chunk.teller.as_ref()), chunk.told_at));
                    let Some(id) = oldest.map(|chunk| chunk.id.clone()) else {
                        break;
                    };
                    chunks.remove(&id);
                    gone.push(NoteKey::Chunk(id));
                }
            }
        }
        gone
    }

    /// Who told of a note first; `None` = nobody did, or it is not known.
    pub(super) fn teller(&self, key: &NoteKey) -> Option<&Teller> {
        match key {
            NoteKey::Run(id) => self.runs.get(id)?.teller.as_ref(),
            NoteKey::Chunk(id) => self.chunks.get(id)?.teller.as_ref(),
        }
    }

    /// Changes a run; `None` when there is none of that id.
    pub(super) fn change(
        &mut self,
        id: &str,
        change: RunChange,
        now: Timestamp,
    ) -> Option<Arc<RunRecord>> {
        let run = Arc::make_mut(&mut self.runs).get_mut(id)?;
        Arc::make_mut(run).change(change, now);
        Some(Arc::clone(run))
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = NoteKey> {
        let runs = self.runs.keys().cloned().map(NoteKey::Run);
        runs.chain(self.chunks.keys().cloned().map(NoteKey::Chunk))
    }

    pub(in crate::reconciler) fn get(&self, key: &NoteKey) -> Option<Note> {
        match key {
            NoteKey::Run(id) => Some(Note::Run(self.runs.get(id)?.as_ref().clone())),
            NoteKey::Chunk(id) => Some(Note::Chunk(self.chunks.get(id)?.as_ref().clone())),
        }
    }
}

fn is_of_here(teller: Option<&Teller>) -> bool {
    teller.is_none_or(Teller::is_of_here)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{RunFigures, RunState};

    fn run(number: i64, state: RunState) -> RunRecord {
        RunRecord {
            id: format!("run-{number:04}"),
            pipeline: "p".to_owned(),
            state,
            started_at: Timestamp::from_millis(number),
            ended_at: None,
            config: String::new(),
            figures: RunFigures::default(),
            error: String::new(),
            components: vec![],
            teller: None,
        }
    }

    #[test]
    fn ended_runs_make_room_for_new_ones_before_running_ones_do() {
        let mut notes = Notes::default();
        notes.put(Note::Run(run(0, RunState::Running)));
        for number in 1..300 {
            notes.put(Note::Run(run(number, RunState::Completed)));
        }
        assert_eq!(notes.runs.len(), MAX_RUNS);
        assert!(notes.runs.contains_key("run-0000") && notes.runs.contains_key("run-0299"));
    }

    #[test]
    fn runs_that_strangers_tell_of_push_out_none_of_a_component() {
        let mut notes = Notes::default();
        let told_by = |number, teller| RunRecord {
            teller: Some(teller),
            ..run(number, RunState::Completed)
        };
        notes.put(Note::Run(told_by(0, Teller::Operator)));
        for number in 1..600 {
            notes.put(Note::Run(told_by(number, Teller::User(1000))));
        }
        assert_eq!(notes.runs.len(), MAX_RUNS);
        assert!(notes.runs.contains_key("run-0000") && notes.runs.contains_key("run-0599"));
    }

    #[test]
    fn a_run_ends_once_and_what_is_left_out_of_a_change_stays() {
        let mut notes = Notes::default();
        notes.put(Note::Run(run(1, RunState::Running)));
        let state = |state| RunChange {
            state: Some(state),
            ..RunChange::default()
        };
        let error = RunChange {
            error: Some("no disk".to_owned()),
            ..RunChange::default()
        };
        notes.change("run-0001", error, Timestamp::from_millis(4));
        notes.change(
            "run-0001",
            state(RunState::Failed),
            Timestamp::from_millis(5),
        );
        let run = notes.change(
            "run-0001",
            state(RunState::Failed),
            Timestamp::from_millis(9),
        );
        let run = run.unwrap();
        assert_eq!(run.ended_at, Some(Timestamp::from_millis(5)));
        assert_eq!(run.error, "no disk");
        assert_eq!(
            notes.change("none", state(RunState::Failed), Timestamp::default()),
            None
        );
    }
}
