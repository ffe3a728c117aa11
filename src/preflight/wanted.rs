//! Which port of this host a component is going to listen on, wherever that stands in its file.

use crate::model::{ComponentSpec, Protocol, Workload};

use super::ports::on_host;

/// What separates words in a command line that a shell reads, and flags from their values.
const SEPARATORS: &[char] = &['"', '\'', ';', '&', '|', '(', ')', '=', ',', '`', '<', '>'];
/// Hosts by which a program means its own.
const OWN_HOSTS: [&str; 7] = [
    "",
    "0.0.0.0",
    "127.0.0.1",
    "localhost",
    "[::]",
    "[::1]",
    "*",
];
/// What stands in the name of a flag or variable that says where to connect to.
const TARGETS: [&str; 6] = [
    "endpoint", "flowctl", "control", "connect", "upstream", "url",
];
/// What stands in the name of a variable that says where to listen.
const LISTENS: [&str; 4] = ["port", "listen", "bind", "addr"];

/// Whether `spec` is going to listen on `port` of this host: by its `ports`, by the probes that ask it
/// there, by its variables, or by its command line. Where that may mean another's port, it counts as
/// wanted.
pub fn wants_port(spec: &ComponentSpec, port: u16) -> bool {
    let declared = spec.ports.iter().any(|one| {
        let wanted = on_host(&spec.workload, one).map(|(number, _)| number);
        one.protocol == Protocol::Tcp && wanted == Some(port)
    });
    let Workload::Process(process) = &spec.workload else {
        return declared;
    };
    declared
        || (spec.probes.ports()).any(|asked| asked.all(spec.replicas.max(1)).any(|it| it == port))
        || spec.env.iter().any(|(name, value)| {
            let name = name.to_ascii_lowercase();
            LISTENS.iter().any(|listens| name.contains(listens))
                && !is_target(&name)
                && is_own(value, port)
        })
        || stands_in(&process.args, port)
}

fn stands_in(args: &[String], port: u16) -> bool {
    let words = args.iter().flat_map(|arg| {
        arg.split(|char: char| char.is_whitespace() || SEPARATORS.contains(&char))
            .filter(|word| !word.is_empty())
    });
    let mut before = "";
    for word in words {
        if is_own(word, port) && !is_target(&before.to_ascii_lowercase()) {
            return true;
        }
        before = word;
    }
    false
}

fn is_target(name: &str) -> bool {
    TARGETS.iter().any(|target| name.contains(target))
}

/// Whether a word is the port, alone or behind an address of this host.
fn is_own(word: &str, port: u16) -> bool {
    let (host, number) = word.rsplit_once(':').unwrap_or(("", word));
    number.parse() == Ok(port) && OWN_HOSTS.contains(&host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixtures::component;
    use crate::model::{HttpTarget, HumanDuration, Port, Probe, ProbeCheck};

    fn with_args(args: &[&str]) -> ComponentSpec {
        let mut spec = component("a", 1, &[]);
        if let Workload::Process(process) = &mut spec.workload {
            process.args = args.iter().map(|&arg| arg.to_owned()).collect();
        }
        spec
    }

    #[test]
    fn a_port_in_a_command_line_is_wanted_where_it_says_where_to_listen() {
        for (args, wanted) in [
            (
                &["-m", "http.server", "8080", "--bind", "127.0.0.1"][..],
                true,
            ),
            (&["-c", "python3 -m http.server 8080; exec sleep 9"], true),
            (&["--port=8080"], true),
            (&["--listen", ":8080"], true),
            (&["-b", "0.0.0.0:8080"], true),
            (&["--listen=[::]:8080"], true),
            (&["-c", "exec nginx -g 'listen 8080;'"], true),
            (&["18080"], false),
            (&["v8080", "8080.log"], false),
            (&["--endpoint", "localhost:8080"], false),
            (&["--control-plane=127.0.0.1:8080"], false),
            (&["http://localhost:8080/"], false),
            (&["db.example:8080"], false),
            (&[], false),
        ] {
            assert_eq!(wants_port(&with_args(args), 8080), wanted, "{args:?}");
        }
    }

    #[test]
    fn a_port_is_wanted_wherever_else_it_stands() {
        let plain = component("a", 1, &[]);
        let mut declared = plain.clone();
        declared.ports.push(Port {
            name: None,
            container_port: 8080,
            host_port: None,
            host_ip: None,
            protocol: Protocol::Tcp,
        });
        let mut probed = plain.clone();
        let target = HttpTarget {
            host: None,
            port: 8080.into(),
            path: "/".to_owned(),
        };
        probed.probes.liveness = Some(Probe {
            check: ProbeCheck::Http(target),
            period: HumanDuration::from_secs(1),
            timeout: HumanDuration::from_secs(1),
            failures: 1,
            successes: 1,
        });
        let given = |name: &str, value: &str| {
            let mut spec = plain.clone();
            spec.env.insert(name.to_owned(), value.to_owned());
            spec
        };
        for (spec, wanted) in [
            (plain.clone(), false),
            (declared, true),
            (probed, true),
            (given("PORT", "8080"), true),
            (given("HEALTH_PORT", "8080"), true),
            (given("LISTEN_ADDR", "0.0.0.0:8080"), true),
            (given("FLOWCTL_ENDPOINT", "localhost:8080"), false),
            (given("DB_URL", "localhost:8080"), false),
            (given("LIMIT", "8080"), false),
        ] {
            assert_eq!(wants_port(&spec, 8080), wanted, "{spec:?}");
        }
    }
}
