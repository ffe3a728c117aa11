//! Registration with flowctl's control plane, and heartbeats.
//!
//! The pipeline works without a control plane, so nothing here ever stops a component: a control
//! plane that is absent, slow or refuses is logged and tried again.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::env::{Env, SettingError};
use super::health::Health;
use super::link::{self, Backoff};
use crate::proto::flowctl::control_plane_client::ControlPlaneClient;
use crate::proto::flowctl::{ServiceHeartbeat, ServiceInfo, ServiceType};

const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// The part a component plays, with the types of events it reads and writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Makes ledgers.
    Source,
    /// Turns ledgers into events.
    Processor,
    /// Takes events.
    Sink,
}

const LEDGER: &str = "raw_ledger_service.RawLedger";
const EVENT: &str = "token_transfer.TokenTransferEvent";

impl Role {
    fn describe(
        self,
    ) -> (
        ServiceType,
        &'static [&'static str],
        &'static [&'static str],
    ) {
        match self {
            Self::Source => (ServiceType::Source, &[], &[LEDGER]),
            Self::Processor => (ServiceType::Processor, &[LEDGER], &[EVENT]),
            Self::Sink => (ServiceType::Sink, &[EVENT], &[]),
        }
    }
}

/// How to register: where, as whom, how often to give a sign of life.
#[derive(Debug, Clone)]
pub struct Registration {
    endpoint: String,
    role: Role,
    component: String,
    network: String,
    health_endpoint: String,
    interval: Duration,
    token: Option<String>,
    token_file: Option<PathBuf>,
}

impl Registration {
    /// Reads how to register from the environment; `None` when it is not asked for.
    ///
    /// # Errors
    /// A variable can't be understood.
    pub fn from_env(
        env: &Env,
        role: Role,
        component: &str,
        health_port: u16,
    ) -> Result<Option<Self>, SettingError> {
        if !env.flag(&["ENABLE_FLOWCTL", "FLOWCTL_ENABLED"]) {
            return Ok(None);
        }
        let names = [
            "FLOWCTL_HEARTBEAT_INTERVAL",
            "FLOWCTL_HEARTBEAT_INTERVAL_MS",
        ];
        let interval = env.duration(&names)?.filter(|interval| !interval.is_zero());
        let endpoint = ["FLOWCTL_ENDPOINT", "CONTROL_PLANE_ENDPOINT"];
        Ok(Some(Self {
            endpoint: env.peer(&endpoint, "localhost:8080")?,
            role,
            component: component.to_owned(),
            network: env
                .text(&["STELLAR_NETWORK"])
                .unwrap_or_else(|| "testnet".to_owned()),
            health_endpoint: env
                .text(&["HEALTH_ENDPOINT"])
                .unwrap_or_else(|| format!("http://localhost:{health_port}/health")),
            interval: interval.unwrap_or(Duration::from_secs(10)),
            token: env.text(&["COMPONENT_TOKEN"]),
            token_file: env.text(&["COMPONENT_TOKEN_FILE"]).map(PathBuf::from),
        }))
    }

    /// Registers and gives signs of life until `stop`, whatever happens to the control plane.
    pub async fn keep(self, health: Arc<Health>, stop: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(10));
        let mut last_problem = String::new();
        loop {
            let Some(outcome) = stop
                .run_until_cancelled(self.register_and_beat(&health, &mut backoff))
                .await
            else {
                return;
            };
            // The same trouble again is no news.
            if outcome != last_problem {
                tracing::warn!(endpoint = self.endpoint, "control plane: {outcome}");
                last_problem = outcome;
            }
            if stop
                .run_until_cancelled(tokio::time::sleep(backoff.delay()))
                .await
                .is_none()
            {
                return;
            }
        }
    }

    /// One registration and its heartbeats, up to the problem that ends them.
    async fn register_and_beat(&self, health: &Health, backoff: &mut Backoff) -> String {
        let channel = match link::connect(&self.endpoint).await {
            Ok(channel) => channel,
            Err(error) => return format!("can't be reached: {}", link::causes(&error)),
        };
        let mut client = ControlPlaneClient::new(channel);
        let service_id = match self.register(&mut client).await {
            Ok(service_id) => service_id,
            Err(status) => return format!("registration failed: {}", status.message()),
        };
        tracing::info!(
            endpoint = self.endpoint,
            service_id,
            "registered with the control plane"
        );
        backoff.reset();
        let mut beat = tokio::time::interval(self.interval);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            beat.tick().await;
            match self.beat(&mut client, &service_id, health).await {
                Ok(()) => {}
                Err(status) if status.code() == Code::NotFound => {
                    return format!("does not know {service_id}: registering again");
                }
                Err(status) => return format!("heartbeat failed: {}", status.message()),
            }
        }
    }

    async fn register(&self, client: &mut ControlPlaneClient<Channel>) -> Result<String, Status> {
        let (service_type, inputs, outputs) = self.role.describe();
        let owned = |types: &[&str]| types.iter().map(|name| (*name).to_owned()).collect();
        let metadata = HashMap::from([
            ("component_id".to_owned(), self.component.clone()),
            ("network".to_owned(), self.network.clone()),
            ("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ]);
        let info = ServiceInfo {
            service_id: String::new(),
            service_type: service_type.into(),
            input_event_types: owned(inputs),
            output_event_types: owned(outputs),
            health_endpoint: self.health_endpoint.clone(),
            max_inflight: 100,
            metadata,
            component_id: self.component.clone(),
        };
        Ok(client
            .register(self.call(info)?)
            .await?
            .into_inner()
            .service_id)
    }

    async fn beat(
        &self,
        client: &mut ControlPlaneClient<Channel>,
        service_id: &str,
        health: &Health,
    ) -> Result<(), Status> {
        let metrics = health.metrics().into_iter();
        #[expect(
            clippy::disallowed_methods,
            reason = "the protocol asks for the wall clock"
        )]
        let now = SystemTime::now();
        let beat = ServiceHeartbeat {
            service_id: service_id.to_owned(),
            timestamp: Some(now.into()),
            metrics: metrics
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        };
        client.heartbeat(self.call(beat)?).await?;
        Ok(())
    }

    /// A request with its deadline and, where there is one, the component's token.
    fn call<T>(&self, message: T) -> Result<Request<T>, Status> {
        let mut request = Request::new(message);
        request.set_timeout(CALL_TIMEOUT);
        if let Some(token) = self.token() {
            let bearer: MetadataValue<Ascii> = format!("Bearer {token}")
                .parse()
                .map_err(|_| Status::invalid_argument("the token is not plain text"))?;
            request.metadata_mut().insert("authorization", bearer);
        }
        Ok(request)
    }

    /// The token of the file, which is renewed while the component runs, else that of the variable.
    fn token(&self) -> Option<String> {
        let renewed = self
            .token_file
            .as_ref()
            .and_then(|path| fs::read_to_string(path).ok());
        renewed
            .map(|text| text.trim().to_owned())
            .or_else(|| self.token.clone())
    }
}
