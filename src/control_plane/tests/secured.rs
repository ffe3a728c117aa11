//! Tokens and certificates.

use std::fs;
use std::path::Path;
use std::process::Command;

use tonic::Request;
use tonic::metadata::MetadataValue;

use super::super::caller::{Nearness, nearness};
use super::*;

fn bearing<T>(message: T, header: &str) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("authorization", MetadataValue::try_from(header).unwrap());
    request
}

fn instance(text: &str) -> InstanceId {
    text.parse().unwrap()
}

#[tokio::test]
async fn a_wrong_token_is_refused_even_where_none_is_needed() {
    let plane = Plane::start().await;
    let mut client = plane.legacy().await;
    client.register(by_name("a")).await.unwrap();
    let now = plane.now();
    let foreign = Keyring::transient()
        .unwrap()
        .issue(&instance("default.p.a.0.1"), now);
    let old = Timestamp::from_millis(now.as_millis() - 90_000_000);
    let expired = plane.keys.issue(&instance("default.p.a.0.1"), old);
    let ended = plane.keys.issue(&instance("default.p.a.0.1"), now);
    for header in [
        format!("Bearer {foreign}"),
        format!("Bearer {expired}"),
        format!("Bearer {ended}"),
        "Bearer nonsense".to_owned(),
        "Basic YTpi".to_owned(),
        String::new(),
    ] {
        let answer = client.register(bearing(by_name("a"), &header)).await;
        assert_eq!(code(answer), Code::Unauthenticated, "{header}");
    }
    plane.end().await;
}

#[tokio::test]
async fn where_tokens_are_required_a_missing_one_is_refused_for_every_call() {
    let options = ControlPlaneOptions {
        tokens: TokenPolicy::Required,
        ..Default::default()
    };
    let plane = Plane::of(Setting {
        options,
        pipelines: &[("p", &["a"])],
        ..Setting::default()
    })
    .await;
    let (mut old, mut new) = (plane.legacy().await, plane.sdk().await);
    assert_eq!(
        code(old.register(by_name("a")).await),
        Code::Unauthenticated
    );
    assert_eq!(code(old.list_services(()).await), Code::Unauthenticated);
    let request = v1::ListComponentsRequest::default();
    assert_eq!(
        code(new.list_components(request).await),
        Code::Unauthenticated
    );
    let token = plane.keys.issue(&instance("default.p.a.0.1"), plane.now());
    let listed = old
        .list_services(bearing((), &format!("bearer {token}")))
        .await;
    assert!(listed.unwrap().into_inner().services.is_empty());
    plane.end().await;
}

#[test]
fn off_loopback_and_bridge_a_token_is_always_required() {
    let (doors, _listeners) = Doors::new("0.0.0.0:8080".parse().unwrap());
    doors.open_bridge("172.30.0.1".parse().unwrap()).unwrap();
    for (local, near) in [
        ("127.0.0.1", Nearness::Here),
        ("::1", Nearness::Here),
        ("::ffff:127.0.0.1", Nearness::Here),
        ("172.30.0.1", Nearness::Bridge),
        ("192.168.1.5", Nearness::Far),
    ] {
        let found = nearness(&doors.bridges(), local.parse().unwrap());
        assert_eq!(found, near, "{local}");
    }
}

#[tokio::test]
async fn a_bridge_is_opened_while_it_serves_with_the_same_services_and_rules() {
    let plane = Plane::start().await;
    let gateway: IpAddr = "127.0.0.2".parse().unwrap();
    let bridge = plane.doors.open_bridge(gateway).unwrap();
    assert_eq!(bridge.port(), plane.address.port());
    assert_eq!(plane.doors.open_bridge(gateway).unwrap(), bridge, "again");
    assert!(plane.doors.bridges().contains(gateway));
    let mut far = ControlPlaneClient::new(channel(bridge).await);
    let ack = far.register(by_name("a")).await.unwrap().into_inner();
    assert_eq!(
        ack.connection_info["control_plane_endpoint"],
        bridge.to_string(),
        "it is told the address that it used"
    );
    let listed = plane.legacy().await.list_services(()).await.unwrap();
    assert_eq!(listed.into_inner().services.len(), 1, "it is one registry");
    let held = std::net::TcpListener::bind(("127.0.0.3", plane.address.port())).unwrap();
    let told = plane.doors.open_bridge(held.local_addr().unwrap().ip());
    assert!(told.unwrap_err().to_string().contains("127.0.0.3"));
    plane.end().await;
}

/// An engine that is asked and does not answer.
struct Hung(tokio::sync::mpsc::UnboundedSender<IpAddr>);

#[tonic::async_trait]
impl Containers for Hung {
    async fn at(&self, address: IpAddr) -> Option<InstanceId> {
        self.0.send(address).unwrap();
        std::future::pending().await
    }
}

#[tokio::test]
async fn the_engine_is_asked_only_about_callers_over_a_bridge_and_delays_nobody_for_long() {
    let (asked, mut questions) = tokio::sync::mpsc::unbounded_channel();
    let engine: Arc<dyn Containers> = Arc::new(Hung(asked));
    let plane = Plane::of(Setting {
        containers: Some(engine),
        ..Setting::default()
    })
    .await;
    let gateway = "127.0.0.2".parse().unwrap();
    let bridge = plane.doors.open_bridge(gateway).unwrap();
    let mut near = plane.legacy().await;
    near.register(by_name("near")).await.unwrap();
    assert!(questions.try_recv().is_err());
    plane.callers_are(LocalUser::Unknown, PeerProcess::Unknown);
    let mut far = ControlPlaneClient::new(channel(bridge).await);
    let register = far.register(by_name("far"));
    let answered = tokio::time::timeout(Duration::from_secs(20), register).await;
    assert_eq!(
        code(answered.unwrap()),
        Code::Unauthenticated,
        "it is nobody"
    );
    let caller: IpAddr = "127.0.0.1".parse().unwrap();
    assert_eq!(questions.recv().await, Some(caller));
    plane.end().await;
}

/// An authority, a server's pair and a client's, made by openssl.
struct Certificates(tempfile::TempDir);

impl Certificates {
    fn make() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let certificates = Self(dir);
        certificates.openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
             -keyout ca.key -out ca.pem -subj /CN=authority",
        );
        certificates.pair("server", "localhost");
        certificates.pair("client", "client");
        certificates
    }

    fn pair(&self, name: &str, host: &str) {
        fs::write(self.path("ext"), format!("subjectAltName=DNS:{host}\n")).unwrap();
        self.openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {name}.key \
             -out {name}.csr -subj /CN={host}"
        ));
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
             -out {name}.pem -extfile ext"
        ));
    }

    fn openssl(&self, arguments: &str) {
        let output = Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(self.0.path())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn files(&self, client_authority: Option<&str>) -> TlsFiles {
        TlsFiles {
            certificate: self.path("server.pem"),
            key: self.path("server.key"),
            client_authority: client_authority.map(|name| self.path(name)),
        }
    }

    /// The serial number of the certificate that is served, by openssl's own client; `None` when it
    /// is not let in.
    fn served(&self, address: SocketAddr, arguments: &[&str]) -> Option<String> {
        let output = Command::new("openssl")
            .args([
                "s_client",
                "-connect",
                &address.to_string(),
                "-CAfile",
                "ca.pem",
            ])
            .args([
                "-verify_return_error",
                "-servername",
                "localhost",
                "-alpn",
                "h2",
                "-ign_eof",
            ])
            .args(arguments)
            .current_dir(self.0.path())
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        if !text.contains("Verify return code: 0") || !text.contains("ALPN protocol: h2") {
            return None;
        }
        // In TLS 1.3 a client learns that it was refused only after its own greeting.
        let errors = String::from_utf8_lossy(&output.stderr);
        (!errors.contains("alert")).then(|| {
            text.lines()
                .skip_while(|line| !line.contains("BEGIN CERT"))
                .take_while(|line| !line.contains("END CERT"))
                .collect()
        })
    }
}

/// Serves with a short patience for silent connections, so that openssl's client is let go.
async fn serve(files: TlsFiles) -> Plane {
    let limits = Limits {
        greeting: Duration::from_millis(1500),
        ..Limits::default()
    };
    let options = ControlPlaneOptions {
        tls: Some(files),
        limits,
        ..Default::default()
    };
    Plane::with(options, Disk::new()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_check_the_certificate_and_see_a_new_one_once_the_files_change() {
    let certificates = Certificates::make();
    let plane = serve(certificates.files(None)).await;
    let first = certificates.served(plane.address, &[]).unwrap();
    assert_eq!(
        certificates.served(plane.address, &["-tls1_1"]),
        None,
        "1.2 is the least"
    );
    assert!(certificates.served(plane.address, &["-tls1_2"]).is_some());
    certificates.pair("server", "localhost");
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        match certificates.served(plane.address, &[]) {
            Some(now) if now != first => break,
            Some(_) | None => assert!(
                std::time::Instant::now() < deadline,
                "the old one is served"
            ),
        }
    }
    // Files that do not go together leave the last good ones in use.
    fs::copy(
        certificates.path("client.key"),
        certificates.path("server.key"),
    )
    .unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(certificates.served(plane.address, &[]).is_some());
    plane.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_an_authority_for_clients_only_those_that_it_vouches_for_are_let_in() {
    let certificates = Certificates::make();
    let plane = serve(certificates.files(Some("ca.pem"))).await;
    assert_eq!(certificates.served(plane.address, &[]), None);
    let shown = ["-cert", "client.pem", "-key", "client.key"];
    assert!(certificates.served(plane.address, &shown).is_some());
    plane.end().await;
}

#[test]
fn what_cannot_be_served_is_told_at_the_start_with_its_file() {
    let certificates = Certificates::make();
    let refused = |files: TlsFiles| {
        let options = ControlPlaneOptions {
            tls: Some(files),
            ..Default::default()
        };
        match ControlPlane::bind(options) {
            Ok(_) => panic!("it was taken"),
            Err(error) => error.to_string(),
        }
    };
    let good = certificates.files(None);
    let mismatched = TlsFiles {
        key: certificates.path("client.key"),
        ..good.clone()
    };
    let told = refused(mismatched);
    assert!(
        told.contains("server.pem") && told.contains("client.key"),
        "{told}"
    );
    let missing = TlsFiles {
        certificate: Path::new("/nowhere.pem").to_owned(),
        ..good.clone()
    };
    assert!(refused(missing).contains("/nowhere.pem"));
    let swapped = TlsFiles {
        certificate: good.key.clone(),
        ..good.clone()
    };
    let told = refused(swapped);
    assert!(told.contains("server.key holds no certificate"), "{told}");
    let nobody = TlsFiles {
        client_authority: Some(good.key.clone()),
        ..good
    };
    assert!(refused(nobody).contains("client authority"));
}
