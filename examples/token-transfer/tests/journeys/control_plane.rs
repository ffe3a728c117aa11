//! Registration and heartbeats, against a control plane that notes what it is told.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use token_transfer::proto::flowctl::control_plane_server::{ControlPlane, ControlPlaneServer};
use token_transfer::proto::flowctl::{RegistrationAck, ServiceHeartbeat, ServiceInfo, ServiceType};
use tokio::runtime::Runtime;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::stage::{Program, Stage, free_port, until};

#[derive(Default)]
struct Noted {
    registrations: Vec<(ServiceInfo, Option<String>)>,
    heartbeats: Vec<ServiceHeartbeat>,
    /// The next heartbeat is told that nobody knows its sender.
    forget: bool,
}

#[derive(Clone, Default)]
struct Notebook(Arc<Mutex<Noted>>);

#[tonic::async_trait]
impl ControlPlane for Notebook {
    async fn register(
        &self,
        request: Request<ServiceInfo>,
    ) -> Result<Response<RegistrationAck>, Status> {
        let token = request.metadata().get("authorization");
        let token = token.map(|token| token.to_str().unwrap().to_owned());
        let info = request.into_inner();
        let service_id = format!("id-of-{}", info.component_id);
        self.0.lock().unwrap().registrations.push((info, token));
        Ok(Response::new(RegistrationAck {
            service_id,
            ..Default::default()
        }))
    }

    async fn heartbeat(&self, request: Request<ServiceHeartbeat>) -> Result<Response<()>, Status> {
        let mut noted = self.0.lock().unwrap();
        if std::mem::take(&mut noted.forget) {
            return Err(Status::not_found("who is that?"));
        }
        noted.heartbeats.push(request.into_inner());
        Ok(Response::new(()))
    }
}

/// A control plane on a port, until it is dropped.
fn serve(port: u16) -> (Notebook, Runtime) {
    let notebook = Notebook::default();
    let runtime = Runtime::new().unwrap();
    let service = ControlPlaneServer::new(notebook.clone());
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    runtime.spawn(Server::builder().add_service(service).serve(address));
    (notebook, runtime)
}

#[test]
fn each_program_registers_and_tells_its_figures() {
    let port = free_port();
    let (notebook, _runtime) = serve(port);
    let mut stage = Stage::with_lake(30);
    stage.set("ENABLE_FLOWCTL", "true");
    stage.set("FLOWCTL_ENDPOINT", &format!("127.0.0.1:{port}"));
    stage.set("FLOWCTL_HEARTBEAT_INTERVAL", "50ms");
    stage.set("COMPONENT_TOKEN", "a.b.c");
    stage.start_all();
    stage.verify();
    let roles = [
        (
            Program::Source,
            "stellar-live-source-datalake",
            ServiceType::Source,
            "total_processed",
        ),
        (
            Program::Processor,
            "ttp-processor",
            ServiceType::Processor,
            "last_processed_ledger",
        ),
        (
            Program::Consumer,
            "consumer-app",
            ServiceType::Sink,
            "total_events_received",
        ),
    ];
    for (program, id, role, figure) in roles {
        until(
            &format!("a heartbeat of {program:?} that tells of the work done"),
            || {
                let noted = notebook.0.lock().unwrap();
                let mut beats = noted.heartbeats.iter().rev();
                let beat = beats.find(|beat| beat.service_id == format!("id-of-{id}"))?;
                (beat.metrics[figure] >= 30.0).then_some(())
            },
        );
        let noted = notebook.0.lock().unwrap();
        let (info, token) = noted
            .registrations
            .iter()
            .find(|(info, _)| info.component_id == id)
            .unwrap();
        assert_eq!(info.service_type(), role);
        assert_eq!(info.metadata["component_id"], id);
        assert!(info.health_endpoint.ends_with("/health"), "{info:?}");
        assert_eq!(token.as_deref(), Some("Bearer a.b.c"));
    }
}

#[test]
fn a_control_plane_that_comes_late_or_forgets_is_told_again() {
    let port = free_port();
    let mut stage = Stage::with_lake(10);
    stage.set("FLOWCTL_ENABLED", "true");
    stage.set("FLOWCTL_ENDPOINT", &format!("http://127.0.0.1:{port}"));
    stage.set("FLOWCTL_HEARTBEAT_INTERVAL", "50ms");
    stage.start(Program::Source);
    until("a first try", || {
        stage
            .log(Program::Source)
            .contains("can't be reached")
            .then_some(())
    });

    let (notebook, _runtime) = serve(port);
    let registrations = || notebook.0.lock().unwrap().registrations.len();
    until("a registration", || (registrations() == 1).then_some(()));
    notebook.0.lock().unwrap().forget = true;
    until("a second one", || (registrations() == 2).then_some(()));
}
