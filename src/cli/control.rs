//! What was typed about the control plane, as the daemon takes it.

use super::args;
use super::exit::Failure;
use crate::control_plane::{
    ClientTls, ControlPlaneOptions, Elsewhere, PortChoice, TlsFiles, TokenPolicy,
};
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
            advertise: self.control_plane_advertise.clone(),
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

impl args::Remote {
    /// Another control plane, when one is named.
    ///
    /// # Errors
    /// When the token's file cannot be read.
    pub(super) fn place(&self) -> Result<Option<Elsewhere>, Failure> {
        let Some(address) = self.control_plane_address.clone() else {
            return Ok(None);
        };
        let read = |path: &std::path::PathBuf| {
            let text = std::fs::read_to_string(path);
            text.map_err(|source| Failure::File {
                operation: "read",
                path: path.clone(),
                source,
            })
        };
        // What it was called before, which components are told of theirs by.
        let older = || std::env::var_os("COMPONENT_TOKEN_FILE").map(std::path::PathBuf::from);
        let file = self.token_file.clone().or_else(older);
        let token = file.as_ref().map(read).transpose()?;
        Ok(Some(Elsewhere {
            address,
            token: token.map(|token| token.trim().to_owned()),
            tls: self.tls_ca.clone().map(|authority| ClientTls {
                authority,
                own: self.tls_cert.clone().zip(self.tls_key.clone()),
            }),
        }))
    }
}
