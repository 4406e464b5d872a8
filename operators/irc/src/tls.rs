//! Which certificates are trusted, and which one we show.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};

/// The SHA-256 of a certificate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint([u8; 32]);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FingerprintError {
    #[error("a SHA-256 has 64 hexadecimal digits, not {0}")]
    Length(usize),
    #[error("{0:?} is not a hexadecimal digit")]
    Digit(char),
}

impl Fingerprint {
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let digits: Vec<char> = text.chars().filter(|c| *c != ':').collect();
        let value = |c: char| c.to_digit(16).ok_or(FingerprintError::Digit(c));
        let values = digits.iter().map(|c| value(*c)).collect::<Result<Vec<u32>, _>>()?;
        if values.len() != 64 {
            return Err(FingerprintError::Length(values.len()));
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(values.chunks(2)) {
            *byte = (pair[0] * 16 + pair[1]) as u8;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whom we trust to be the server.
#[derive(Debug, Clone)]
pub(crate) enum Trust {
    /// The authorities that the system trusts.
    System,
    /// The authorities in this PEM text.
    Authorities(Vec<u8>),
    /// The server with this certificate alone, whoever signed it and whatever name it bears.
    Pin(Fingerprint),
}

/// Why no TLS connection can be set up with these settings.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("the system trusts no certificate authority: install ca-certificates, or set tls-ca or tls-pin{0}")]
    NoSystemRoots(String),
    #[error("tls-ca has no certificate in PEM form")]
    NoAuthority,
    #[error("tls-ca: {0}")]
    Authority(String),
    #[error("tls-cert: {0}")]
    Certificate(String),
    #[error("tls-key: {0}")]
    Key(String),
    #[error("tls: {0}")]
    Rustls(#[from] rustls::Error),
}

/// The rustls configuration: TLS 1.2 and 1.3, by ring.
pub(crate) fn client_config(trust: Trust, own: Option<(&str, &str)>) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Verifier::new(trust, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let Some((certificate, key)) = own else { return Ok(builder.with_no_client_auth()) };
    let certificates = CertificateDer::pem_slice_iter(certificate.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| TlsError::Certificate(error.to_string()))?;
    if certificates.is_empty() {
        return Err(TlsError::Certificate("there is no certificate in PEM form in it".to_owned()));
    }
    // rustls' own error would be fine, but must not show any part of the key.
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|_| TlsError::Key("there is no private key in PEM form in it".to_owned()))?;
    builder
        .with_client_auth_cert(certificates, key)
        .map_err(|error| TlsError::Certificate(format!("it does not fit tls-key: {error}")))
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        return Err(TlsError::NoSystemRoots(why));
    }
    Ok(roots)
}

fn authorities(pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| TlsError::Authority(error.to_string()))?;
        roots.add(certificate).map_err(|error| TlsError::Authority(error.to_string()))?;
    }
    if roots.is_empty() { Err(TlsError::NoAuthority) } else { Ok(roots) }
}

/// Checks the server's certificate; a refusal names the fingerprint, so that a person can compare and pin it. That the
/// server holds the certificate's key is checked in every case.
#[derive(Debug)]
struct Verifier {
    by: By,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
enum By {
    Authorities(Arc<WebPkiServerVerifier>),
    Pin(Fingerprint),
}

impl Verifier {
    fn new(trust: Trust, provider: &Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let roots = match trust {
            Trust::System => system_roots()?,
            Trust::Authorities(pem) => authorities(&pem)?,
            Trust::Pin(pin) => return Ok(Self { by: By::Pin(pin), provider: provider.clone() }),
        };
        let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()
            .map_err(|error| TlsError::Authority(error.to_string()))?;
        Ok(Self { by: By::Authorities(webpki), provider: provider.clone() })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let seen = Fingerprint::of(end_entity);
        match &self.by {
            By::Pin(pin) if *pin == seen => Ok(ServerCertVerified::assertion()),
            By::Pin(_) => {
                Err(rustls::Error::General(format!("the server's certificate has SHA-256 {seen}, not that of tls-pin")))
            }
            By::Authorities(webpki) => {
                webpki.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now).map_err(|error| {
                    let why = distrust(&error);
                    rustls::Error::General(format!(
                        "{why}; the server's certificate has SHA-256 {seen}, if that is the right one, set tls-pin"
                    ))
                })
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Why a certificate is not trusted. rustls has no word for the commonest one that a server made itself, which is its
/// own authority.
fn distrust(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(other))
            if format!("{other:?}").contains("CaUsedAsEndEntity") =>
        {
            "the server's certificate is self-signed, which only tls-pin can trust".to_owned()
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod handshakes;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_is_its_own_authority_is_called_self_signed() {
        let mut parameters = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let made = parameters.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let verifier = Verifier::new(Trust::Authorities(made.pem().into_bytes()), &provider).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let refused = verifier.verify_server_cert(made.der(), &[], &name, &[], UnixTime::now()).unwrap_err();
        let text = refused.to_string();
        assert!(text.contains("is self-signed") && text.contains("set tls-pin") && !text.contains("Other"), "{text}");
    }

    #[test]
    fn fingerprints() {
        let plain = "3f".repeat(32);
        let fingerprint: Fingerprint = plain.parse().unwrap();
        assert_eq!(fingerprint.to_string(), plain);
        assert_eq!(("3F:".repeat(31) + "3F").parse(), Ok(fingerprint));
        assert_eq!("3f".parse::<Fingerprint>(), Err(FingerprintError::Length(2)));
        assert_eq!("zz".parse::<Fingerprint>(), Err(FingerprintError::Digit('z')));
        assert_eq!("é".parse::<Fingerprint>(), Err(FingerprintError::Digit('é')));
    }

    #[test]
    fn bad_pem_is_refused_without_showing_a_key() {
        let trust =
            |pem: &str| client_config(Trust::Authorities(pem.into()), None).map(|_| ()).unwrap_err().to_string();
        assert_eq!(trust("nothing"), "tls-ca has no certificate in PEM form");
        let pin = || Trust::Pin(Fingerprint([0; 32]));
        let own = |cert: &str, key: &str| client_config(pin(), Some((cert, key))).map(|_| ()).unwrap_err().to_string();
        assert!(own("x", "hunter2").starts_with("tls-cert"));
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let other = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let no_key = own(&made.cert.pem(), "hunter2");
        assert!(no_key.starts_with("tls-key") && !no_key.contains("hunter2"));
        assert!(own(&made.cert.pem(), &other.signing_key.serialize_pem()).contains("does not fit"));
        client_config(pin(), Some((&made.cert.pem(), &made.signing_key.serialize_pem()))).unwrap();
    }
}
