//! What runners tell about runs and chunks: kept for whoever asks, decided upon by nobody.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{ChunkRecord, RunChange, RunRecord, Timestamp};

/// Runs that are kept; ended ones go first, then the oldest.
const MAX_RUNS: usize = 256;
/// Chunks that are kept; the ones that nobody told of for longest go first.
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
                        .min_by_key(|run| (!run.state.has_ended(), run.started_at))
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
                    let oldest = chunks.values().min_by_key(|chunk| chunk.told_at);
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
