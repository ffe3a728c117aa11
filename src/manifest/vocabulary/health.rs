//! The fields of probes and of progress.

use super::OnEdit::{AppliesLive, Depends, RestartsIfTold};
use super::{Field, Kind, REQUIRED, Section};

/// `probes`, of a component or of `defaults`.
pub(super) static PROBES: Section = Section {
    what: "`probes`",
    text: "How it is found out whether a component is well. Each probe has one check.",
    fields: &[
        Field::new(
            "startup",
            Kind::Section(&PROBE),
            "none",
            Depends,
            "until it passes, the others do not count, and what fails it is started anew",
            "startup: {tcp: 9000, failures: 60}",
        ),
        Field::new(
            "readiness",
            Kind::Section(&PROBE),
            "none",
            Depends,
            "one that fails makes a component unready and restarts nothing",
            "readiness: {http: {port: 8088, path: /health}, period: 5s}",
        ),
        Field::new(
            "liveness",
            Kind::Section(&PROBE),
            "none",
            Depends,
            "one that fails stops the component with grace and restarts it",
            "liveness: {exec: [./still-alive], timeout: 3s}",
        ),
    ],
};

/// One of the three probes.
pub(super) static PROBE: Section = Section {
    what: "a probe",
    text: "One check, and how often it is made. `http`, `grpc` and `tcp` also take a bare port.",
    fields: &[
        Field::new(
            "http",
            Kind::PortOr(&HTTP),
            "",
            Depends,
            "check, `{port, path, host}` or a port: an answer of 2xx or 3xx, whose JSON does not say `\"status\": \"unhealthy\"`",
            "http: {port: 8088, path: /health}",
        ),
        Field::new(
            "grpc",
            Kind::PortOr(&GRPC),
            "",
            Depends,
            "check, `{port, service}` or a port: gRPC's health service says SERVING",
            "grpc: {port: 9090, service: orders}",
        ),
        Field::new(
            "tcp",
            Kind::PortOr(&TCP),
            "",
            Depends,
            "check, `{port}` or a port: somebody accepts a connection",
            "tcp: 9000",
        ),
        Field::new(
            "exec",
            Kind::TextsOr(&EXEC),
            "",
            AppliesLive,
            "check, `[program, argument]`: it ends with 0; it gets what the component gets",
            "exec: [./still-alive, --quick]",
        ),
        Field::new(
            "heartbeat",
            Kind::Section(&HEARTBEAT),
            "",
            Depends,
            "check, `{ttl}`: the control plane has heard of it lately",
            "heartbeat: {ttl: 30s}",
        ),
        Field::new(
            "period",
            Kind::Duration,
            "`1s` for startup, `10s` for the others",
            AppliesLive,
            "how often it is asked",
            "period: 5s",
        ),
        Field::new(
            "timeout",
            Kind::Duration,
            "`2s`",
            AppliesLive,
            "how long an answer may take",
            "timeout: 3s",
        ),
        Field::new(
            "failures",
            Kind::Whole(1, 1_000_000),
            "`30` for startup, `3` for the others",
            AppliesLive,
            "in a row until it counts as failed",
            "failures: 5",
        ),
        Field::new(
            "successes",
            Kind::Whole(1, 1_000),
            "`1`",
            AppliesLive,
            "in a row until it counts as passed",
            "successes: 2",
        ),
    ],
};

static HTTP: Section = Section {
    what: "a check",
    text: "What is asked by HTTP.",
    fields: &[
        Field::new(
            "port",
            Kind::Port,
            REQUIRED,
            RestartsIfTold,
            "a number, the name of one of the component's ports, or with references in it",
            "port: 8088",
        ),
        Field::new(
            "path",
            Kind::Word,
            "`/health`",
            AppliesLive,
            "what is asked for",
            "path: /ready",
        ),
        Field::new(
            "host",
            Kind::Word,
            "the component's",
            AppliesLive,
            "who is asked",
            "host: db.internal",
        ),
    ],
};

static GRPC: Section = Section {
    what: "a check",
    text: "What is asked by gRPC.",
    fields: &[
        Field::new(
            "port",
            Kind::Port,
            REQUIRED,
            AppliesLive,
            "a number, the name of one of the component's ports, or with references in it",
            "port: 9090",
        ),
        Field::new(
            "service",
            Kind::Word,
            "the server as a whole",
            AppliesLive,
            "of which service",
            "service: orders",
        ),
    ],
};

static TCP: Section = Section {
    what: "a check",
    text: "Where somebody has to accept a connection.",
    fields: &[Field::new(
        "port",
        Kind::Port,
        REQUIRED,
        AppliesLive,
        "a number, the name of one of the component's ports, or with references in it",
        "port: 9000",
    )],
};

static EXEC: Section = Section {
    what: "`exec`",
    text: "A program that ends with 0 where all is well.",
    fields: &[Field::new(
        "command",
        Kind::Texts,
        REQUIRED,
        AppliesLive,
        "the program and its arguments",
        "command: [./still-alive, --quick]",
    )],
};

static HEARTBEAT: Section = Section {
    what: "a check",
    text: "How long ago the control plane has heard of the component.",
    fields: &[Field::new(
        "ttl",
        Kind::Duration,
        REQUIRED,
        AppliesLive,
        "how long ago at most",
        "ttl: 30s",
    )],
};

/// `progress`.
pub(super) static PROGRESS: Section = Section {
    what: "`progress`",
    text: "What has to change while a component works; one that stands still is stalled.",
    fields: &[
        Field::new(
            "metric",
            Kind::Word,
            "",
            AppliesLive,
            "one of the three: a figure of its heartbeats, by name",
            "metric: last_processed_ledger",
        ),
        Field::new(
            "output",
            Kind::Duration,
            "",
            AppliesLive,
            "one of the three: its log, and how old the last line may be",
            "output: 15m",
        ),
        Field::new(
            "http",
            Kind::Section(&ANSWER),
            "",
            Depends,
            "one of the three: `{port, path, host, pointer}`, an answer",
            "http: {port: 8088, path: /stats, pointer: /stats/last}",
        ),
        Field::new(
            "max_age",
            Kind::Duration,
            "required, but with `output`",
            AppliesLive,
            "how long it may stand still",
            "max_age: 10m",
        ),
        Field::new(
            "startup",
            Kind::Duration,
            "`1h`",
            AppliesLive,
            "how long after its start it may take to change for the first time",
            "startup: 10m",
        ),
        Field::new(
            "while",
            Kind::Choice(&["upstream-progressing"], &[]),
            "always",
            AppliesLive,
            "`upstream-progressing`: nothing is expected unless one of its `inputs`, which need a `progress` of their own, has changed within half of `max_age`",
            "while: upstream-progressing",
        ),
        Field::new(
            "on_stall",
            Kind::Choice(&["tell", "restart"], &[]),
            "`tell`",
            AppliesLive,
            "`restart`: it is restarted too, at most once an hour, which counts as a failed liveness probe does",
            "on_stall: restart",
        ),
    ],
};

static ANSWER: Section = Section {
    what: "`http`",
    text: "An answer that has to change.",
    fields: &[
        Field::new(
            "port",
            Kind::Port,
            REQUIRED,
            AppliesLive,
            "a number, the name of one of the component's ports, or with references in it",
            "port: 8088",
        ),
        Field::new(
            "path",
            Kind::Word,
            "`/health`",
            AppliesLive,
            "what is asked for",
            "path: /stats",
        ),
        Field::new(
            "host",
            Kind::Word,
            "the component's",
            AppliesLive,
            "who is asked",
            "host: db.internal",
        ),
        Field::new(
            "pointer",
            Kind::Word,
            "all of the answer",
            AppliesLive,
            "names a value of a JSON answer (RFC 6901)",
            "pointer: /stats/last",
        ),
    ],
};
