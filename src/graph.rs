//! What reads from what, and what waits for what: a pipeline as a graph. Pure.

use std::collections::BTreeSet;

use serde_json::json;

use crate::model::{ComponentId, Condition, PipelineSpec};

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

/// A component where it stands in the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    /// The lines from its parents to it.
    pub trunk: String,
    /// Which component.
    pub id: ComponentId,
    /// What it waits for of the one above it, and whether it was drawn above with all below it.
    pub note: String,
}

/// A tree from those that read from nobody; one that was drawn above is only named.
pub fn tree(spec: &PipelineSpec) -> Vec<Branch> {
    let edges = edges(spec);
    let mut tree = Vec::new();
    let mut drawn = BTreeSet::new();
    let ids = spec.components.keys();
    for id in ids.filter(|id| !edges.iter().any(|edge| edge.to == *id)) {
        tree.push(Branch {
            trunk: String::new(),
            id: id.clone(),
            note: String::new(),
        });
        branch(&edges, id, "", &mut drawn, &mut tree);
    }
    tree
}

/// The tree as text.
pub fn ascii(spec: &PipelineSpec) -> String {
    let mut text = format!("{}\n", spec.key);
    for Branch { trunk, id, note } in tree(spec) {
        text.push_str(&format!("  {trunk}{id}{note}\n"));
    }
    text
}

fn branch<'a>(
    edges: &[Edge<'a>],
    from: &'a ComponentId,
    indent: &str,
    drawn: &mut BTreeSet<&'a ComponentId>,
    tree: &mut Vec<Branch>,
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
        tree.push(Branch {
            trunk: format!("{indent}{corner} "),
            id: edge.to.clone(),
            note: note + above,
        });
        branch(edges, edge.to, &format!("{indent}{line}"), drawn, tree);
    }
}

/// The graph in Mermaid's words.
pub fn mermaid(spec: &PipelineSpec) -> String {
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

/// The graph in Graphviz' words.
pub fn dot(spec: &PipelineSpec) -> String {
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

/// The graph for programs.
pub fn as_json(spec: &PipelineSpec) -> serde_json::Value {
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
