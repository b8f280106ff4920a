//! Keys as TLS wants them: raw public keys (RFC 7250) instead of certificates.
//!
//! There is no web of trust to consult: a dialler expects one key, an acceptor has a list. What TLS
//! proves is that the other side holds the private half.

use super::Members;
use crate::error::Refusal;
use atlas_common::crypto::{KeyPair, PublicKey, Signer};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName,
    Error, OtherError, ServerConfig, SignatureScheme,
};
use std::io;
use std::sync::Arc;
use thiserror::Error as ThisError;
use zeroize::Zeroizing;

/// What precedes the seed in the PKCS#8 form of an ed25519 key (RFC 8410, section 7).
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// What precedes the key in the SubjectPublicKeyInfo of an ed25519 key (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// The algorithms: one of each kind where one is enough.
fn provider() -> CryptoProvider {
    CryptoProvider {
        // The cheapest first; all are at full strength.
        cipher_suites: vec![
            ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
            ring::cipher_suite::TLS13_AES_256_GCM_SHA384,
            ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![ring::kx_group::X25519],
        ..ring::default_provider()
    }
}

/// A node's own key, ready for TLS.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    certified: Arc<CertifiedKey>,
    provider: Arc<CryptoProvider>,
}

impl Identity {
    pub(super) fn new(key: &KeyPair) -> Result<Self, Error> {
        let mut pkcs8 = Zeroizing::new([0; PKCS8_PREFIX.len() + 32]);
        let (prefix, seed) = pkcs8.split_at_mut(PKCS8_PREFIX.len());
        prefix.copy_from_slice(&PKCS8_PREFIX);
        seed.copy_from_slice(key.seed().as_ref());
        let signing = ring::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(&pkcs8[..]))?;
        let spki = [&SPKI_PREFIX[..], &key.public_key().0].concat();
        let certified = CertifiedKey::new(vec![CertificateDer::from(spki)], signing);
        Ok(Self {
            certified: Arc::new(certified),
            provider: Arc::new(provider()),
        })
    }

    /// For connections that this node accepts from any of `members` and the admitted clients.
    pub(super) fn server(&self, members: Arc<Members>) -> Result<ServerConfig, Error> {
        let verifier = Arc::new(AdmittedKeys {
            members,
            provider: Arc::clone(&self.provider),
        });
        let resolver = AlwaysResolvesServerRawPublicKeys::new(Arc::clone(&self.certified));
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(resolver));
        // Connections last; a full handshake each time keeps the key check on every one.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// For connections that this node dials to the holder of `expected`.
    pub(super) fn client(&self, expected: PublicKey) -> Result<ClientConfig, Error> {
        let verifier = Arc::new(PinnedKey {
            expected,
            provider: Arc::clone(&self.provider),
        });
        let resolver = AlwaysResolvesClientRawPublicKeys::new(Arc::clone(&self.certified));
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::new(resolver));
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        Ok(config)
    }
}

/// The key in a raw public key "certificate"; `None` for anything but ed25519.
pub(super) fn key_of(certificate: &CertificateDer<'_>) -> Option<PublicKey> {
    let key = certificate.strip_prefix(&SPKI_PREFIX)?;
    key.try_into().ok().map(PublicKey)
}

/// A key that this side does not accept.
#[derive(Clone, Copy, Debug, ThisError)]
#[error("{refusal}")]
pub(super) struct RefusedKey {
    pub(super) refusal: Refusal,
    /// `None` when what was shown is not an ed25519 key.
    key: Option<PublicKey>,
}

impl RefusedKey {
    /// The key, for a line in the log.
    pub(super) fn shown(&self) -> String {
        self.key.map_or_else(
            || " (it showed no ed25519 key)".to_owned(),
            |key| format!(" (it showed {key})"),
        )
    }
}

/// Why a handshake failed, if for an identity: by this side, or by the other.
pub(super) enum HandshakeRefusal {
    ByUs(RefusedKey),
    /// The other side did not accept this node's key; TLS tells no more.
    ByPeer,
    /// What the other side speaks is not this TLS.
    NotTls,
}

/// Reads a refusal out of what a handshake, or the first read after it, failed with. `None` for
/// failures of the network.
pub(super) fn refusal_in(error: &io::Error) -> Option<HandshakeRefusal> {
    let tls = error.get_ref()?.downcast_ref::<Error>()?;
    Some(match tls {
        Error::InvalidCertificate(CertificateError::Other(OtherError(reason))) => {
            let refused = reason.downcast_ref::<RefusedKey>().copied();
            refused.map_or(HandshakeRefusal::NotTls, HandshakeRefusal::ByUs)
        }
        // What rustls sends when a verifier of ours refuses.
        Error::AlertReceived(AlertDescription::CertificateUnknown) => HandshakeRefusal::ByPeer,
        _ => HandshakeRefusal::NotTls,
    })
}

fn refused(refusal: Refusal, key: Option<PublicKey>) -> Error {
    let refused = RefusedKey { refusal, key };
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refused))))
}

/// Accepts the one key that the peer being dialled must have.
#[derive(Debug)]
struct PinnedKey {
    expected: PublicKey,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match key_of(end_entity) {
            Some(key) if key == self.expected => Ok(ServerCertVerified::assertion()),
            key => Err(refused(Refusal::WrongKey, key)),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls13_only())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature(&self.provider, message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Accepts the keys of members and of admitted clients. Which of them a connection claims to be is
/// told, and checked, in its greeting.
#[derive(Debug)]
struct AdmittedKeys {
    members: Arc<Members>,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for AdmittedKeys {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let admits =
            |key: &PublicKey| self.members.member(key).is_some() || self.members.admits_client(key);
        match key_of(end_entity) {
            Some(key) if admits(&key) => Ok(ClientCertVerified::assertion()),
            key => Err(refused(Refusal::UnknownKey, key)),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls13_only())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature(&self.provider, message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

fn tls13_only() -> Error {
    Error::General("TLS 1.3 only".to_owned())
}

fn verify_signature(
    provider: &CryptoProvider,
    message: &[u8],
    cert: &CertificateDer<'_>,
    dss: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let spki = SubjectPublicKeyInfoDer::from(cert.as_ref());
    let algorithms = &provider.signature_verification_algorithms;
    verify_tls13_signature_with_raw_key(message, &spki, dss, algorithms)
}
