//! `flowctl graph`.

use serde_json::json;

use super::args::{Graph, GraphFormat};
use super::exit::{Exit, Failure};
use super::host::Question;
use super::out::tell;
use super::sources::{PATIENCE, gather};
use super::{Stateless, asking};
use crate::graph::{as_json, ascii, dot, mermaid};
use crate::model::PipelineSpec;

pub(super) fn run(cx: &mut Stateless<'_>, args: Graph) -> Result<Exit, Failure> {
    let sources = asking(gather(args.files.all(), PATIENCE))?;
    let approved = cx.host.check(&Question {
        sources: &sources,
        namespace: cx.global.namespace.as_ref(),
        orchestrator: None,
        style: cx.out.look().style,
    })?;
    if !approved.remarks.rendered.is_empty() {
        tell(approved.remarks.rendered.trim_end());
    }
    let pipelines: Vec<&PipelineSpec> = approved.pipelines.iter().map(|(_, spec)| spec).collect();
    let text = match args.output {
        GraphFormat::Ascii => pipelines.iter().map(|spec| ascii(spec)).collect(),
        GraphFormat::Mermaid => pipelines.iter().map(|spec| mermaid(spec)).collect(),
        GraphFormat::Dot => pipelines.iter().map(|spec| dot(spec)).collect(),
        GraphFormat::Json => {
            let all: Vec<_> = pipelines.iter().map(|spec| as_json(spec)).collect();
            format!("{}\n", json!({ "pipelines": all }))
        }
    };
    cx.out.put(&text)?;
    Ok(Exit::Done)
}
