//! The API's TLS certificate: self-signed, made at first start, pinned by our own clients.

use crate::{Error, Secret, file};
use rustls::{
    ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
};
use std::{path::Path, sync::Arc};

/// A certificate with its private key.
#[derive(Debug)]
pub struct Certificate {
    /// The certificate, then those of the authorities between it and the one that clients trust; never empty.
    chain: Vec<CertificateDer<'static>>,
    private: Secret,
}

impl Certificate {
    /// The pair in these two PEM files, made there for `names` (host names and IP addresses) if both are missing.
    pub fn load_or_make(certificate: &Path, private: &Path, names: &[String]) -> Result<Certificate, Error> {
        match (file::read_if_there(certificate)?, file::read_if_there(private)?) {
            (Some(cert), Some(key)) => Ok(Certificate {
                chain: chain_from_pem(certificate, &cert)?,
                private: Secret::new(from_pem(private, &key)?),
            }),
            (None, None) => make(certificate, private, names),
            (Some(_), None) => Err(Error::Damaged {
                path: certificate.into(),
                what: format!("its private key {} is missing", private.display()),
            }),
            // The key is written first, so this is a first start that was cut off.
            (None, Some(_)) => make(certificate, private, names),
        }
    }

    /// The certificate in DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.chain[0]
    }

    /// What a server needs: this certificate with its chain, ALPN h2 and http/1.1.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, Error> {
        let tls = |why: rustls::Error| Error::Crypto(format!("the TLS certificate can't be used: {why}"));
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.private.expose().to_vec()));
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(tls)?
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), key)
            .map_err(tls)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn make(certificate: &Path, private: &Path, names: &[String]) -> Result<Certificate, Error> {
    let crypto = |why: rcgen::Error| Error::Crypto(format!("can't make a TLS certificate: {why}"));
    let key = rcgen::KeyPair::generate().map_err(crypto)?;
    let mut params = rcgen::CertificateParams::new(names).map_err(crypto)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "dolmen");
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let signed = params.self_signed(&key).map_err(crypto)?;
    let key_pem = Secret::new(key.serialize_pem().into_bytes());
    file::replace(private, key_pem.expose(), file::Visibility::Owner)?;
    file::replace(certificate, signed.pem().as_bytes(), file::Visibility::Everybody)?;
    Ok(Certificate { chain: vec![signed.der().clone()], private: Secret::new(key.serialize_der()) })
}

fn not_pem(path: &Path) -> impl FnOnce(pem::PemError) -> Error {
    move |why| Error::Damaged { path: path.into(), what: format!("not in PEM form ({why})") }
}

fn from_pem(path: &Path, bytes: &[u8]) -> Result<Vec<u8>, Error> {
    pem::parse(bytes).map(pem::Pem::into_contents).map_err(not_pem(path))
}

/// The certificates in a file, in their order: at least one.
fn chain_from_pem(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let blocks = pem::parse_many(bytes).map_err(not_pem(path))?;
    let certificates = blocks.into_iter().filter(|block| block.tag() == "CERTIFICATE");
    let chain: Vec<_> = certificates.map(|block| CertificateDer::from(block.into_contents())).collect();
    if chain.is_empty() {
        return Err(Error::Damaged { path: path.into(), what: "there is no certificate in it".into() });
    }
    Ok(chain)
}

/// A client that trusts exactly the first certificate in this PEM file, whatever name or address it is reached by. ALPN is
/// http/1.1.
pub fn pinned_client_config(certificate: &Path) -> Result<ClientConfig, Error> {
    let bytes = file::read_if_there(certificate)?.ok_or_else(|| Error::File {
        path: certificate.into(),
        source: std::io::Error::from(std::io::ErrorKind::NotFound),
    })?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let pin = Pin {
        certificate: chain_from_pem(certificate, &bytes)?.swap_remove(0),
        algorithms: provider.signature_verification_algorithms,
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|why| Error::Crypto(why.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(pin))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Accepts one certificate, byte for byte; the handshake still proves that the peer has its key.
#[derive(Debug)]
struct Pin {
    certificate: CertificateDer<'static>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *end_entity == self.certificate {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::CertificateError::UnknownIssuer.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_made_once_and_survives_a_cut_off_start() {
        crate::install_crypto();
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
        let names = ["localhost".to_string(), "127.0.0.1".into(), "::1".into()];
        let made = Certificate::load_or_make(&cert, &key, &names).unwrap();
        let again = Certificate::load_or_make(&cert, &key, &names).unwrap();
        assert_eq!(made.der(), again.der());
        again.server_config().unwrap();
        pinned_client_config(&cert).unwrap();
        std::fs::remove_file(&cert).unwrap();
        let third = Certificate::load_or_make(&cert, &key, &names).unwrap();
        assert_ne!(made.der(), third.der());
        std::fs::remove_file(&key).unwrap();
        assert!(matches!(Certificate::load_or_make(&cert, &key, &names), Err(Error::Damaged { .. })));
    }

    /// Lets both ends say what they have to say until the handshake is over, or one of them is against it.
    fn shake(client: ClientConfig, server: Arc<ServerConfig>) -> Result<(), rustls::Error> {
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = rustls::ClientConnection::new(client.into(), name).unwrap();
        let mut server = rustls::ServerConnection::new(server).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes).unwrap();
            }
            server.read_tls(&mut &bytes[..]).unwrap();
            server.process_new_packets()?;
            bytes.clear();
            while server.wants_write() {
                server.write_tls(&mut bytes).unwrap();
            }
            client.read_tls(&mut &bytes[..]).unwrap();
            client.process_new_packets()?;
        }
        Ok(())
    }

    #[test]
    fn a_certificate_of_an_authority_comes_with_its_intermediates() {
        use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
        crate::install_crypto();
        let authority = |name: &str| {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            (params, KeyPair::generate().unwrap())
        };
        let (params, key) = authority("root");
        let (root, by_root) = (params.self_signed(&key).unwrap(), Issuer::new(params, key));
        let (params, key) = authority("between");
        let (between, by_between) = (params.signed_by(&key, &by_root).unwrap(), Issuer::new(params, key));
        let own = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(["localhost".to_string()]).unwrap();
        let leaf = leaf.signed_by(&own, &by_between).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
        std::fs::write(&cert, format!("{}\n{}", leaf.pem(), between.pem())).unwrap();
        std::fs::write(&key, own.serialize_pem()).unwrap();
        let server = Certificate::load_or_make(&cert, &key, &[]).unwrap().server_config().unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(root.der().clone()).unwrap();
        let stock = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        shake(stock, server.clone()).unwrap();
        shake(pinned_client_config(&cert).unwrap(), server).unwrap();
        // What is no certificate is none, wherever it is.
        std::fs::write(&cert, own.serialize_pem()).unwrap();
        assert!(matches!(Certificate::load_or_make(&cert, &key, &[]), Err(Error::Damaged { .. })));
    }
}
