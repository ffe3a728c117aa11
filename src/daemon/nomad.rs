//! The clusters of Nomad that components of this daemon run on.

use std::path::Path;
use std::sync::Arc;

use super::engine::{self, EngineError};
use crate::clock::Clock;
use crate::driver::Conduct;
use crate::driver::Driver as _;
use crate::driver::nomad::{NomadConfig, NomadDriver, Settings};
use crate::images::Gate;
use crate::reconciler::Kept;
use crate::store::Recovery;

/// The way to the clusters of a daemon. That none answers is found out when a component needs it.
pub(super) fn open(
    state_dir: &Path,
    clock: &Clock,
    gate: Arc<Gate>,
) -> Result<Arc<NomadDriver>, EngineError> {
    driver(state_dir, clock, Conduct::Tends, gate)
}

/// The way there for somebody who changes nothing; `None` when this directory has nothing there.
pub(super) fn onlooker(
    state_dir: &Path,
    clock: &Clock,
) -> Result<Option<Arc<NomadDriver>>, EngineError> {
    if !NomadDriver::has_kept_something(state_dir) {
        return Ok(None);
    }
    driver(state_dir, clock, Conduct::OnlyLooks, Arc::new(Gate::open())).map(Some)
}

fn driver(
    state_dir: &Path,
    clock: &Clock,
    conduct: Conduct,
    gate: Arc<Gate>,
) -> Result<Arc<NomadDriver>, EngineError> {
    let config = NomadConfig {
        settings: Settings::of(&|name| std::env::var(name).ok()),
        state_dir: state_dir.to_owned(),
        owner: engine::owner(state_dir)?,
        conduct,
        gate,
    };
    Ok(NomadDriver::new(config, clock.clone()))
}

/// Whether clusters are asked what they run: when something kept speaks of them, and when a store was
/// lost that may have.
pub(super) fn is_asked(nomad: &NomadDriver, kept: &Kept, recovery: &Recovery) -> bool {
    let pipelines = kept.pipelines.values();
    let mut components = pipelines.flat_map(|record| record.spec.components.values());
    components.any(|component| component.driver() == nomad.kind())
        || (*recovery != Recovery::Intact && nomad.may_have_some())
}
