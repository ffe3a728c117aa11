//! `flowctl render`: what would be sent to a cluster, without one.

use super::args::{Render, RenderFormat};
use super::exit::{Exit, Failure};
use super::host::Question;
use super::out::tell;
use super::sources::{PATIENCE, gather};
use super::{Stateless, asking};
use crate::api::{ApiError, ErrorCode, SourceInput};
use crate::driver::kubernetes::{Rendering, rendered};
use crate::driver::nomad;
use crate::model::PipelineSpec;

pub(super) fn run(cx: &mut Stateless<'_>, args: Render) -> Result<Exit, Failure> {
    let sources = asking(gather(args.files.all(), PATIENCE))?;
    let approved = cx.host.check(&Question {
        sources: &sources,
        namespace: cx.global.namespace.as_ref(),
        orchestrator: args.driver.map(Into::into),
        style: cx.out.look().style,
    })?;
    if !approved.remarks.rendered.is_empty() {
        tell(approved.remarks.rendered.trim_end());
    }
    let (mut all, mut jobs) = (Vec::new(), Vec::new());
    for (source, pipeline) in &approved.pipelines {
        let file = match sources.get(*source) {
            Some(SourceInput::File(path)) => Some(path.as_path()),
            Some(SourceInput::Text { .. }) | None => None,
        };
        let objects = rendered(&Rendering {
            pipeline,
            file,
            namespace: &args.kube_namespace,
        });
        all.extend(objects.map_err(|error| {
            Failure::Told(ApiError::new(ErrorCode::Refused, error.to_string()))
        })?);
        let registrations = nomad::rendered(pipeline, file);
        jobs.extend(registrations.map_err(|error| {
            Failure::Told(ApiError::new(ErrorCode::Refused, error.to_string()))
        })?);
    }
    if !jobs.is_empty() {
        if !all.is_empty() {
            let message = "a part of it runs on Kubernetes and a part on Nomad, which take different forms: \
                           render one of them by `--driver kubernetes` or `--driver nomad`";
            return Err(Failure::Usage(message.to_owned()));
        }
        cx.out
            .put(&format!("{:#}\n", serde_json::Value::from(jobs)))?;
        return Ok(Exit::Done);
    }
    if all.is_empty() {
        let names: Vec<String> = approved.pipelines.iter().map(|(_, it)| named(it)).collect();
        let message = format!(
            "nothing of {} runs on Kubernetes: write `driver: kubernetes`, or render it all the same by \
             `--driver kubernetes`",
            names.join(", ")
        );
        return Err(Failure::Usage(message));
    }
    let text = match args.output {
        RenderFormat::Yaml => {
            let documents: Result<Vec<String>, Failure> =
                all.iter().map(|object| cx.host.yaml(object)).collect();
            documents?.join("---\n")
        }
        RenderFormat::Json => {
            let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": all});
            format!("{list:#}\n")
        }
    };
    cx.out.put(&text)?;
    Ok(Exit::Done)
}

fn named(pipeline: &PipelineSpec) -> String {
    format!("`{}`", pipeline.key)
}
