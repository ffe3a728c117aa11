//! `flowctl graph`: what reads from what, and what waits for what.

use std::collections::BTreeSet;

use serde_json::json;

use super::args::{Graph, GraphFormat};
use super::exit::{Exit, Failure};
use super::host::Question;
use super::out::tell;
use super::sources::{PATIENCE, gather};
use super::{Stateless, asking};
use crate::model::{ComponentId, Condition, PipelineSpec};

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

/// A line from one component to another.
struct Edge<'a> {
    from: &'a ComponentId,
    to: &'a ComponentId,
    what: What,
}

/// What a line stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    /// Data.
    Input,
    /// A wait alone.
    Wait(Condition),
}

impl What {
    fn word(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Wait(Condition::Started) => "started",
            Self::Wait(Condition::Ready) => "ready",
            Self::Wait(Condition::Completed) => "completed",
        }
    }
}

/// All lines, by where they lead to.
fn edges(spec: &PipelineSpec) -> Vec<Edge<'_>> {
    let mut all = Vec::new();
    for component in spec.components.values() {
        let to = &component.id;
        for from in &component.inputs {
            let what = What::Input;
            all.push(Edge { from, to, what });
        }
        for wait in &component.dependencies {
            if !component.inputs.contains(&wait.id) {
                let (from, what) = (&wait.id, What::Wait(wait.condition));
                all.push(Edge { from, to, what });
            }
        }
    }
    all
}

/// A tree from those that read from nobody; one that was drawn above is only named.
fn ascii(spec: &PipelineSpec) -> String {
    let edges = edges(spec);
    let mut text = format!("{}\n", spec.key);
    let mut drawn = BTreeSet::new();
    let ids = spec.components.keys();
    for id in ids.filter(|id| !edges.iter().any(|edge| edge.to == *id)) {
        text.push_str(&format!("  {id}\n"));
        branch(&edges, id, "  ", &mut drawn, &mut text);
    }
    text
}

fn branch<'a>(
    edges: &[Edge<'a>],
    from: &'a ComponentId,
    indent: &str,
    drawn: &mut BTreeSet<&'a ComponentId>,
    text: &mut String,
) {
    if !drawn.insert(from) {
        return;
    }
    let below: Vec<&Edge<'a>> = edges.iter().filter(|edge| edge.from == from).collect();
    for (index, edge) in below.iter().enumerate() {
        let is_last = index + 1 == below.len();
        let (corner, line) = if is_last {
            ("`-", "   ")
        } else {
            ("|-", "|  ")
        };
        let note = match edge.what {
            What::Input => String::new(),
            What::Wait(_) => format!(" (waits until it is {})", edge.what.word()),
        };
        let above = if drawn.contains(edge.to) { " ^" } else { "" };
        text.push_str(&format!("{indent}{corner} {}{note}{above}\n", edge.to));
        branch(edges, edge.to, &format!("{indent}{line}"), drawn, text);
    }
}

fn mermaid(spec: &PipelineSpec) -> String {
    let ids: Vec<&ComponentId> = spec.components.keys().collect();
    // Words of Mermaid's own, such as `end`, are names of components too.
    let node = |id: &ComponentId| {
        ids.iter()
            .position(|known| *known == id)
            .unwrap_or_default()
    };
    let mut text = format!("%% {}\nflowchart LR\n", spec.key);
    for (number, id) in ids.iter().enumerate() {
        text.push_str(&format!("  n{number}[\"{id}\"]\n"));
    }
    for edge in edges(spec) {
        let line = match edge.what {
            What::Input => "-->".to_owned(),
            What::Wait(_) => format!("-. {} .->", edge.what.word()),
        };
        text.push_str(&format!(
            "  n{} {line} n{}\n",
            node(edge.from),
            node(edge.to)
        ));
    }
    text
}

fn dot(spec: &PipelineSpec) -> String {
    let mut text = format!("digraph \"{}\" {{\n  rankdir=LR;\n", spec.key);
    for id in spec.components.keys() {
        text.push_str(&format!("  \"{id}\";\n"));
    }
    for edge in edges(spec) {
        let style = match edge.what {
            What::Input => String::new(),
            What::Wait(_) => format!(" [style=dashed, label=\"{}\"]", edge.what.word()),
        };
        text.push_str(&format!("  \"{}\" -> \"{}\"{style};\n", edge.from, edge.to));
    }
    text.push_str("}\n");
    text
}

fn as_json(spec: &PipelineSpec) -> serde_json::Value {
    let components: Vec<_> = spec
        .components
        .values()
        .map(|one| json!({ "id": one.id, "role": one.role, "driver": one.driver() }))
        .collect();
    let edges: Vec<_> = edges(spec)
        .iter()
        .map(|edge| json!({ "from": edge.from, "to": edge.to, "kind": edge.what.word() }))
        .collect();
    json!({
        "namespace": spec.key.namespace,
        "pipeline": spec.key.name,
        "components": components,
        "edges": edges,
    })
}
