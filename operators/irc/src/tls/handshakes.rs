//! Handshakes with servers of every version, honest and not. Real servers speak the newest version alone.

use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;

/// Shows this certificate, whatever key it has.
#[derive(Debug)]
struct Shows(Arc<CertifiedKey>);

impl ResolvesServerCert for Shows {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

type Made = rcgen::CertifiedKey<rcgen::KeyPair>;

fn made() -> Made {
    rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap()
}

/// What our side of a handshake says.
async fn handshake(
    trust: Trust,
    name: &'static str,
    version: &'static SupportedProtocolVersion,
    certificate: &Made,
    key: &Made,
) -> Result<(), String> {
    let provider = Arc::new(ring::default_provider());
    let key = PrivateKeyDer::from_pem_slice(key.signing_key.serialize_pem().as_bytes()).unwrap();
    let signing = provider.key_provider.load_private_key(key).unwrap();
    let shown = CertifiedKey::new(vec![certificate.cert.der().clone()], signing);
    let server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Shows(Arc::new(shown))));
    let (ours, theirs) = duplex(64 << 10);
    let serving = tokio::spawn(async move {
        if let Ok(mut stream) = TlsAcceptor::from(Arc::new(server)).accept(theirs).await {
            let _ = stream.read_u8().await;
        }
    });
    let config = Arc::new(client_config(trust, None).unwrap());
    let connected = TlsConnector::from(config).connect(ServerName::try_from(name).unwrap(), ours).await;
    let said = connected.map(|stream| {
        assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
    });
    serving.abort();
    said.map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_pin_is_worth_nothing_without_the_key_in_both_versions() {
    let (right, other) = (made(), made());
    let pin = || Trust::Pin(Fingerprint::of(right.cert.der()));
    for version in [&TLS12, &TLS13] {
        // The name does not matter to a pin.
        handshake(pin(), "irc.example.net", version, &right, &right).await.unwrap();
        let stolen = handshake(pin(), "localhost", version, &right, &other).await.unwrap_err();
        assert!(stolen.contains("BadSignature"), "{version:?}: {stolen}");
        let wrong = handshake(pin(), "localhost", version, &other, &other).await.unwrap_err();
        assert!(wrong.contains("not that of tls-pin"), "{version:?}: {wrong}");
    }
}

#[tokio::test]
async fn an_authority_vouches_for_a_name_in_both_versions() {
    let (right, other) = (made(), made());
    let trust = || Trust::Authorities(right.cert.pem().into());
    for version in [&TLS12, &TLS13] {
        handshake(trust(), "localhost", version, &right, &right).await.unwrap();
        for (name, shown, key) in
            [("irc.example.net", &right, &right), ("localhost", &other, &other), ("localhost", &right, &other)]
        {
            let refused = handshake(trust(), name, version, shown, key).await.unwrap_err();
            assert!(refused.contains("invalid peer certificate"), "{version:?}: {refused}");
        }
    }
}
