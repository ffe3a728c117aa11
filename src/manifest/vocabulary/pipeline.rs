//! The fields of a whole pipeline.

use super::OnEdit::{AppliesLive, Depends, Nothing, Renames, Restarts};
use super::beside::{REQUIREMENT, TARGET};
use super::component::{COMPONENT, RESTART_FIELD, STOP_FIELD};
use super::health::PROBES;
use super::kubernetes::KUBERNETES;
use super::{Field, Kind, REQUIRED, Section};

/// A pipeline: one document of a manifest.
pub static PIPELINE: Section = Section {
    what: "a pipeline",
    text: "One pipeline: a document of a manifest.",
    fields: &[
        Field::new(
            "apiVersion",
            Kind::Word,
            REQUIRED,
            Nothing,
            "the form of the file: `flowctl/v1`",
            "apiVersion: flowctl/v1",
        )
        .also(&["api_version", "apiversion"]),
        Field::new(
            "kind",
            Kind::Choice(&["Pipeline"], &[]),
            REQUIRED,
            Nothing,
            "`Pipeline`",
            "kind: Pipeline",
        ),
        Field::new(
            "metadata",
            Kind::Section(&METADATA),
            REQUIRED,
            Depends,
            "what it is called, and what is said of it",
            "metadata: {name: ttp}",
        ),
        Field::new(
            "spec",
            Kind::Section(&SPEC),
            REQUIRED,
            Depends,
            "what runs",
            "spec: {sources: [{id: a, command: [date]}]}",
        ),
    ],
};

static METADATA: Section = Section {
    what: "`metadata`",
    text: "What a pipeline is called, and what is said of it.",
    fields: &[
        Field::new(
            "name",
            Kind::Label,
            REQUIRED,
            Renames,
            "a DNS label: up to 63 lower-case letters, digits and `-`. Unique in its namespace",
            "name: ttp",
        ),
        Field::new(
            "namespace",
            Kind::Label,
            "`-n`, else `default`",
            Renames,
            "a group of pipelines of different owners or purposes",
            "namespace: staging",
        ),
        Field::new(
            "labels",
            Kind::Map,
            "`{}`",
            AppliesLive,
            "free text that selects: `-l team=data`, `match` of notifications, metrics",
            "labels: {team: data}",
        ),
        Field::new(
            "annotations",
            Kind::Map,
            "`{}`",
            AppliesLive,
            "free text for readers and other programs",
            "annotations: {runbook: \"https://example.org/ttp\"}",
        ),
        Field::new(
            "description",
            Kind::Text,
            "",
            AppliesLive,
            "an old place of `spec.description`",
            "description: ledgers to transfers",
        ),
    ],
};

static SPEC: Section = Section {
    what: "`spec`",
    text: "What runs, where, and who is told of it.",
    fields: &[
        Field::new(
            "description",
            Kind::Text,
            "",
            AppliesLive,
            "what the pipeline is for",
            "description: ledgers to transfers",
        ),
        Field::new(
            "driver",
            Kind::Choice(DRIVERS, OLD_DRIVERS),
            "",
            Restarts,
            "where components run that do not say otherwise",
            "driver: docker",
        )
        .also(&["executor"]),
        Field::new(
            "network",
            Kind::Word,
            "one of its own",
            Restarts,
            "the network of the engine that its containers are on",
            "network: shared",
        ),
        Field::new(
            "env",
            Kind::Map,
            "`{}`",
            Restarts,
            "variables of every component",
            "env: {GREETING: hello}",
        ),
        Field::new(
            "defaults",
            Kind::Section(&DEFAULTS),
            "",
            Depends,
            "what components have that do not say otherwise",
            "defaults: {restart: {max_delay: 2m}}",
        ),
        Field::new(
            "sources",
            Kind::Sections(&COMPONENT),
            "`[]`",
            Depends,
            "components that read from elsewhere; at least one component has to be in one of the lists",
            "sources: [{id: ledgers, command: [./ledgers]}]",
        ),
        Field::new(
            "processors",
            Kind::Sections(&COMPONENT),
            "`[]`",
            Depends,
            "components that read from and write to others",
            "processors: [{id: transfers, command: [./transfers], inputs: [ledgers]}]",
        ),
        Field::new(
            "sinks",
            Kind::Sections(&COMPONENT),
            "`[]`",
            Depends,
            "components that write elsewhere",
            "sinks: [{id: file, command: [./file], inputs: [transfers]}]",
        )
        .also(&["consumers"]),
        Field::new(
            "pipelines",
            Kind::Sections(&COMPONENT),
            "`[]`",
            Depends,
            "whole pipelines in one image each",
            "pipelines: [{id: all, image: \"example/all:1\"}]",
        ),
        Field::new(
            "notify",
            Kind::Sections(&TARGET),
            "`[]`",
            AppliesLive,
            "who is told of what is wrong with this pipeline, see *When nobody looks*",
            "notify: [{name: owner, to: {webhook: {url_file: hook.url}}}]",
        ),
        Field::new(
            "images",
            Kind::Section(&REQUIREMENT),
            "",
            AppliesLive,
            "what must hold of the images of its containers, beside the daemon's policy; it is looked at before each start",
            "images: {digest: pinned}",
        ),
        Field::new(
            "nomad",
            Kind::Section(&NOMAD),
            "",
            Restarts,
            "where Nomad is, for components that it runs; see *On Nomad*",
            "nomad: {address: \"http://nomad:4646\"}",
        ),
        Field::new(
            "kubernetes",
            Kind::Section(&KUBERNETES),
            "",
            Restarts,
            "where components go that Kubernetes runs, and how they are kept there, see *On a cluster*",
            "kubernetes: {namespace: data}",
        ),
        Field::new(
            "config",
            Kind::Unused,
            "",
            Nothing,
            "has no effect: write it in the components that read it",
            "config: {}",
        ),
    ],
};

/// The drivers.
pub(super) const DRIVERS: &[&str] = &["process", "docker", "nomad", "kubernetes"];
/// Older names of them.
pub(super) const OLD_DRIVERS: &[&str] = &["container", "k8s", "local", "dag"];

static DEFAULTS: Section = Section {
    what: "`defaults`",
    text: "What components have that do not say otherwise.",
    fields: &[
        RESTART_FIELD,
        STOP_FIELD,
        Field::new(
            "probes",
            Kind::Section(&PROBES),
            "none",
            Depends,
            "see *Probes*",
            "probes: {readiness: {tcp: 9000}}",
        ),
    ],
};

static NOMAD: Section = Section {
    what: "`nomad`",
    text: "Where Nomad is.",
    fields: &[
        Field::new(
            "address",
            Kind::Word,
            "",
            Restarts,
            "its API; without it $NOMAD_ADDR of the daemon, else http://127.0.0.1:4646",
            "address: \"http://nomad:4646\"",
        ),
        Field::new(
            "datacenter",
            Kind::Word,
            "",
            Restarts,
            "which datacenter; without it any",
            "datacenter: dc1",
        ),
        Field::new(
            "namespace",
            Kind::Word,
            "",
            Restarts,
            "which namespace of Nomad's; without it $NOMAD_NAMESPACE of the daemon, else `default`",
            "namespace: data",
        ),
    ],
};
