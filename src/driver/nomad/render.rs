//! The jobs of a whole pipeline as they would be registered, for whoever wants to look at them first.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::job::{self, Order, Pull};
use crate::driver::rendering::{self, NOBODY, RenderError, first_run};
use crate::driver::variables;
use crate::model::{PipelineSpec, Workload};

/// The registration of the first run of every replica that Nomad runs; each is a body of `PUT /v1/jobs`. Values
/// of secrets are not in them, nor what a daemon gives: its address, and tokens. What is known once another
/// component has a place stands as its reference.
///
/// # Errors
/// What keeps a component from becoming a job.
pub fn rendered(pipeline: &PipelineSpec, file: Option<&Path>) -> Result<Vec<Value>, RenderError> {
    let mut jobs = Vec::new();
    for spec in pipeline.components.values() {
        let Workload::Nomad(nomad) = &spec.workload else {
            continue;
        };
        let refused = |failure| RenderError::refused(spec, failure);
        let files = rendering::variables(spec)?;
        let given = variables::given(spec, &files).map_err(|error| refused(error.into()))?;
        for replica in 0..spec.replicas {
            let launch = first_run(pipeline, spec, replica, file);
            let order = Order {
                owner: NOBODY,
                launch: &launch,
                nomad,
                namespace: nomad.namespace.as_deref().unwrap_or("default"),
                region: None,
                image: nomad.container.image.clone(),
                pull: Pull::of(nomad.container.pull),
                variables: job::variables(given.clone(), &launch),
                token: None,
                secrets: &BTreeMap::new(),
            };
            let made = job::job(&order).map_err(refused)?;
            jobs.push(json!({"Job": made.job, "EnforceIndex": true, "JobModifyIndex": 0}));
        }
    }
    Ok(jobs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Options, parse};

    /// The jobs of the file that the design has for Nomad.
    fn jobs() -> Vec<Value> {
        let text = "
apiVersion: flowctl/v1
kind: Pipeline
metadata: {name: ledgers}
spec:
  executor: nomad
  nomad: {address: 'http://nomad:4646', datacenter: dc1, namespace: data}
  sources:
    - id: source
      image: example/source:1
      command: [run, '${HOME}']
      ports: [{name: grpc, containerPort: 9090}, {containerPort: 80, hostPort: 8080}]
      resources: {cpu: 200, memory: 256}
      env: {PLAIN: a, TRICKY: 'x ${node.unique.name}'}
  sinks:
    - id: sink
      image: example/sink:1
      inputs: [source]
      env: {SOURCE: '${{ components.source.address }}'}
      secrets: [{name: key, env: KEY}]
";
        let parsed = parse("p.yaml", text.as_bytes(), &Options::at("/base"));
        let parsed = parsed.unwrap_or_else(|problems| panic!("{problems}"));
        rendered(&parsed.pipelines[0], None).unwrap()
    }

    /// The job of this component.
    fn of(component: &str) -> Value {
        let name = format!("ledgers-{component}-0");
        let all = jobs().into_iter();
        let mut found = all.filter(|body| body["Job"]["Name"] == name.as_str());
        found.next().expect("it has a job")["Job"].clone()
    }

    #[test]
    fn a_job_is_one_that_nomad_never_starts_again() {
        for body in jobs() {
            assert_eq!(
                (&body["EnforceIndex"], &body["JobModifyIndex"]),
                (&json!(true), &json!(0))
            );
            let job = &body["Job"];
            assert_eq!(job["Type"], "batch");
            assert_eq!(job["Namespace"], "data");
            assert_eq!(job["Datacenters"], json!(["dc1"]));
            let group = &job["TaskGroups"][0];
            assert_eq!(group["Count"], 1);
            assert_eq!(group["RestartPolicy"]["Attempts"], 0);
            assert_eq!(group["RestartPolicy"]["Mode"], "fail");
            assert_eq!(
                group["ReschedulePolicy"],
                json!({"Attempts": 0, "Unlimited": false})
            );
            assert_eq!(group["Disconnect"]["Replace"], false);
            assert_eq!(group["Tasks"].as_array().unwrap().len(), 1);
            for template in group["Tasks"][0]["Templates"].as_array().unwrap() {
                assert_eq!(
                    (&template["Once"], &template["ChangeMode"]),
                    (&json!(true), &json!("noop"))
                );
            }
        }
    }

    #[test]
    fn what_a_file_says_is_asked_for_in_nomads_units_and_nothing_of_it_is_replaced() {
        let job = of("source");
        let source = &job["TaskGroups"][0];
        let task = &source["Tasks"][0];
        assert_eq!(task["Resources"], json!({"CPU": 200, "MemoryMB": 256}));
        assert_eq!(task["Config"]["command"], "run");
        assert_eq!(task["Config"]["args"], json!([r#"${"$"}{HOME}"#]));
        assert_eq!(task["Config"]["ports"], json!(["grpc", "port_80"]));
        let network = json!([{
            "ReservedPorts": [{"Label": "port_80", "Value": 8080, "To": 80}],
            "DynamicPorts": [{"Label": "grpc", "To": 9090}],
        }]);
        assert_eq!(source["Networks"], network);
        assert_eq!(task["Env"]["PLAIN"], "a");
        assert_eq!(task["Env"]["TRICKY"], Value::Null);
        let file = &task["Templates"][0];
        assert_eq!(file["Envvars"], true);
        assert_eq!(file["EmbeddedTmpl"], "TRICKY=\"x ${node.unique.name}\"\n");
    }

    #[test]
    fn a_secret_is_nowhere_in_a_job_but_by_the_name_of_its_variable() {
        let sink = of("sink");
        let template = &sink["TaskGroups"][0]["Tasks"][0]["Templates"];
        let id = sink["ID"].as_str().unwrap();
        let secret = template
            .as_array()
            .unwrap()
            .iter()
            .find(|it| it["DestPath"] == "secrets/files/key");
        let secret = secret.expect("its file is rendered");
        assert_eq!(secret["Perms"], "0400");
        let text = secret["EmbeddedTmpl"].as_str().unwrap();
        assert!(
            text.contains(&format!("nomad/jobs/{id}/main/main")),
            "{text}"
        );
    }
}
