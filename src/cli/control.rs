//! What was typed about the control plane, as the daemon takes it.

use super::args;
use crate::control_plane::{ControlPlaneOptions, PortChoice, TlsFiles, TokenPolicy};
use crate::daemon::ControlPlaneChoice;
use crate::model::Patience;

impl args::ControlPlane {
    /// This daemon's own control plane, or another that is named.
    pub(super) fn chosen(&self) -> ControlPlaneChoice {
        if let Some(address) = &self.use_external_control_plane {
            return ControlPlaneChoice::External(address.clone());
        }
        let tls = match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => Some(TlsFiles {
                certificate: certificate.clone(),
                key: key.clone(),
                client_authority: self.tls_client_ca.clone(),
            }),
            (Some(_) | None, _) => None,
        };
        ControlPlaneChoice::Own(ControlPlaneOptions {
            address: self.control_plane_address,
            port: match self.control_plane_port {
                None => PortChoice::Default,
                Some(0) => PortChoice::Free,
                Some(port) => PortChoice::Exactly(port),
            },
            tokens: if self.require_tokens {
                TokenPolicy::Required
            } else {
                TokenPolicy::WhenForeign
            },
            tls,
            patience: Patience {
                ttl: self.heartbeat_ttl.get(),
                sweep: self.janitor_interval.get(),
            },
            ..ControlPlaneOptions::default()
        })
    }
}
