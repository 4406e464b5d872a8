//! Settings made ready for use: secrets and certificates read, so that a reload can be refused before anything changes.

use std::io;
use std::sync::Arc;

use libeevee::Secret;
use libeevee::chat::IgnoreList;
use libeevee::filter::GlobError;
use libeevee::settings::CredentialError;
use rustls::ClientConfig;

use crate::config::{Config, Nickserv, Password, Sasl, Wanted};
use crate::server::{Server, ServerError};
use crate::settings::{Flood, IrcSettings, Mechanism};
use crate::tls::{FingerprintError, TlsError, Trust, client_config};

/// All that is needed to connect and to hold the conversation.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) server: Server,
    pub(crate) tls: Option<Arc<ClientConfig>>,
    pub(crate) config: Arc<Config>,
    pub(crate) flood: Flood,
    settings: Arc<IrcSettings>,
}

/// Why settings that are right in themselves cannot be used here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanError {
    #[error(transparent)]
    Credential(#[from] CredentialError),
    #[error("tls-ca: cannot read {path}: {source}")]
    Authorities { path: String, source: io::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("tls-pin: {0}")]
    Pin(#[from] FingerprintError),
    #[error("ignore: {0}")]
    Ignore(#[from] GlobError),
    #[error("server: {0}")]
    Server(#[from] ServerError),
}

impl Plan {
    /// Reads what the settings name.
    pub(crate) fn new(settings: Arc<IrcSettings>) -> Result<Self, PlanError> {
        let server: Server = settings.server.parse()?;
        let tls = if settings.tls { Some(Arc::new(tls(&settings)?)) } else { None };
        let config = Arc::new(config(&settings, &server)?);
        if tls.is_none() && (config.sasl.is_some() || config.nickserv.is_some() || config.server_password.is_some()) {
            tracing::warn!("a password will be sent without encryption: tls is false");
        }
        Ok(Self { server, tls, config, flood: settings.flood, settings })
    }

    /// Whether this plan needs another connection than `old`.
    pub(crate) fn needs_new_connection(&self, old: &Self) -> bool {
        self.settings.needs_new_connection(&old.settings)
    }
}

fn password(secret: &Secret) -> Result<Password, CredentialError> {
    secret.read().map(Password)
}

fn config(settings: &IrcSettings, server: &Server) -> Result<Config, PlanError> {
    let sasl = match &settings.sasl {
        None => None,
        Some(sasl) => Some(match (sasl.mechanism, &sasl.account, &sasl.password) {
            (Mechanism::Plain, Some(account), Some(secret)) => {
                Sasl::Plain { account: account.clone(), password: password(secret)? }
            }
            // check() lets no PLAIN without account and password through.
            (Mechanism::Plain | Mechanism::External, account, _) => Sasl::External { account: account.clone() },
        }),
    };
    let nickserv = match &settings.nickserv {
        Some(n) => Some(Nickserv { account: n.account.clone(), password: password(&n.password)? }),
        None => None,
    };
    let wanted = |channel: &String| {
        let (name, key) = channel.split_once(' ').map_or((channel.as_str(), None), |(name, key)| (name, Some(key)));
        Wanted { name: name.to_owned(), key: key.map(|key| Password(key.to_owned())) }
    };
    Ok(Config {
        host: server.host.clone(),
        network: settings.network.clone(),
        nick: settings.nick.clone(),
        user: settings.user().to_owned(),
        realname: settings.realname.clone().unwrap_or_else(|| settings.nick.clone()),
        channels: settings.channels.iter().map(wanted).collect(),
        recogniser: settings.recogniser(),
        rate: settings.limits.rate(),
        ignore: IgnoreList::parse(&settings.ignore)?,
        sasl,
        server_password: settings.server_password.as_ref().map(password).transpose()?,
        nickserv,
    })
}

fn tls(settings: &IrcSettings) -> Result<ClientConfig, PlanError> {
    let trust = match (&settings.tls_pin, &settings.tls_ca) {
        (Some(pin), _) => Trust::Pin(pin.parse()?),
        (None, Some(path)) => {
            let pem = std::fs::read(path).map_err(|source| PlanError::Authorities { path: path.clone(), source })?;
            Trust::Authorities(pem)
        }
        (None, None) => Trust::System,
    };
    let own = match (&settings.tls_cert, &settings.tls_key) {
        (Some(certificate), Some(key)) => Some((certificate.read()?, key.read()?)),
        _ => None,
    };
    let own = own.as_ref().map(|(certificate, key)| (certificate.as_str(), key.as_str()));
    Ok(client_config(trust, own)?)
}
