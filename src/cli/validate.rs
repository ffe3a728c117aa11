//! `flowctl validate`.

use serde_json::json;

use super::args::{TextOrJson, Validate};
use super::exit::{Exit, Failure};
use super::host::{Approved, Question};
use super::out::tell;
use super::sources::{PATIENCE, gather};
use super::{Stateless, asking};
use crate::api::SourceInput;

pub(super) fn run(cx: &mut Stateless<'_>, args: Validate) -> Result<Exit, Failure> {
    let sources = asking(gather(args.files.all(), PATIENCE))?;
    let checked = cx.host.check(&Question {
        sources: &sources,
        namespace: cx.global.namespace.as_ref(),
        orchestrator: args.orchestrator.map(Into::into),
        style: cx.out.look().style,
    });
    match (checked, args.output) {
        (Ok(approved), TextOrJson::Text) => {
            if !approved.remarks.rendered.is_empty() {
                tell(approved.remarks.rendered.trim_end());
            }
            cx.out.put(&summary(&sources, &approved))?;
            Ok(Exit::Done)
        }
        (Ok(approved), TextOrJson::Json) => {
            let warnings = &approved.remarks.warnings;
            let answer = json!({ "valid": true, "problems": [], "warnings": warnings });
            cx.out.line(answer.to_string().as_bytes())?;
            Ok(Exit::Done)
        }
        (Err(Failure::Told(error)), TextOrJson::Json) if !error.problems.is_empty() => {
            let (problems, warnings) = (&error.problems, &error.warnings);
            let answer = json!({ "valid": false, "problems": problems, "warnings": warnings });
            cx.out.line(answer.to_string().as_bytes())?;
            Ok(Failure::Told(error).exit())
        }
        (Err(failure), _) => Err(failure),
    }
}

/// `pipeline.yaml: valid; pipeline ttp with 3 components`, a line per pipeline.
fn summary(sources: &[SourceInput], approved: &Approved) -> String {
    approved
        .pipelines
        .iter()
        .map(|(index, spec)| {
            let source = match sources.get(*index) {
                Some(SourceInput::File(path)) => path.display().to_string(),
                Some(SourceInput::Text {
                    name: Some(name), ..
                }) => name.clone(),
                Some(SourceInput::Text { name: None, .. }) | None => "standard input".to_owned(),
            };
            let count = spec.components.len();
            let components = if count == 1 {
                "component"
            } else {
                "components"
            };
            format!(
                "{source}: valid; pipeline {} with {count} {components}\n",
                spec.key
            )
        })
        .collect()
}
