// SPDX-License-Identifier: Apache-2.0
//! `knarr-control token`: the tokens that machines join with, through the running API server.

use std::path::Path;

use anyhow::{Context, anyhow, bail};
use clap::Subcommand;
use http::Method;
use knarr_api::k8s_openapi::api::core::v1::Secret;
use knarr_api::k8s_openapi::jiff::SignedDuration;
use knarr_control_plan::join_tokens::{self, Expiration, Stored, Token};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rand::Rng;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::api::Api;
use crate::clock;
use crate::config::Period;

/// What to do with tokens.
#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Makes a token and prints the line that a machine joins with
    Create {
        /// How long machines can join with it; 0: until it is deleted
        #[arg(long, value_name = "TIME", default_value = "24h")]
        ttl: Period,
        /// What it is for, shown by `list`
        #[arg(long, value_name = "TEXT", default_value = "")]
        description: String,
        /// Print the token alone
        #[arg(long)]
        token_only: bool,
    },
    /// Shows the tokens, without their secret parts
    List,
    /// Deletes a token; nodes that joined with it stay
    Delete {
        /// The token, or its part before the dot
        #[arg(value_name = "TOKEN", value_parser = id_of)]
        id: String,
    },
}

fn path(name: &str) -> String {
    format!(
        "/api/v1/namespaces/{}/secrets{name}",
        join_tokens::NAMESPACE
    )
}

/// The public part of a token; what is secret of it is not kept.
fn id_of(token: &str) -> Result<String, join_tokens::NoToken> {
    let id = token.split('.').next().unwrap_or_default();
    if !join_tokens::is_id(id) {
        return Err(join_tokens::NoToken);
    }
    Ok(id.to_owned())
}

/// Does `command` through the API server of `data_dir`, or the one at `server`.
pub(super) async fn run(
    data_dir: &Path,
    server: Option<&str>,
    command: TokenCommand,
) -> anyhow::Result<()> {
    let api = Api::open(data_dir, server)?;
    match command {
        TokenCommand::Create {
            ttl,
            description,
            token_only,
        } => {
            let token = create(&api, ttl, &description).await?;
            if token_only {
                println!("{token}");
            } else {
                let (url, hash) = (api.url_for_others(), hash(api.ca_pem())?);
                println!("knarr-agent run --server {url} --token {token} --ca-hash {hash}");
            }
        }
        TokenCommand::List => print!("{}", list(&api).await?),
        TokenCommand::Delete { id } => {
            let name = format!("/{}", join_tokens::secret_name(&id));
            match api.request(Method::DELETE, &path(&name), None).await {
                Ok(_) => println!("token {id} deleted"),
                Err(error) if error.is_not_found() => bail!("there is no token {id}"),
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

async fn create(api: &Api, ttl: Period, description: &str) -> anyhow::Result<Token> {
    let lifetime = (!ttl.0.is_zero())
        .then(|| SignedDuration::try_from(ttl.0))
        .transpose()
        .map_err(|_| anyhow!("--ttl is too long"))?;
    let token = Token::generate(|below| rand::rng().random_range(0..below));
    let secret = token.to_secret(description, lifetime, clock::now());
    let body = serde_json::to_value(&secret)?;
    api.request(Method::POST, &path(""), Some(&body)).await?;
    Ok(token)
}

async fn list(api: &Api) -> anyhow::Result<String> {
    let query = format!(
        "?fieldSelector=type%3D{}",
        utf8_percent_encode(join_tokens::SECRET_TYPE, NON_ALPHANUMERIC)
    );
    let mut answer = api.request(Method::GET, &path(&query), None).await?;
    let secrets: Vec<Secret> = serde_json::from_value(answer["items"].take())
        .context("the API server's list of tokens cannot be read")?;
    let now = clock::now();
    let mut text = format!("{:<8} {:<24} {}\n", "TOKEN", "EXPIRES", "DESCRIPTION");
    for stored in secrets.iter().map(Stored::read) {
        let expires = match stored.expiration {
            Expiration::Never => "never".to_owned(),
            Expiration::Broken => "unreadable".to_owned(),
            Expiration::At(end) if end <= now => "expired".to_owned(),
            Expiration::At(end) => end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        };
        text += format!("{:<8} {expires:<24} {}", stored.id, stored.description).trim_end();
        text.push('\n');
    }
    Ok(text)
}

/// `sha256:` and the hash of the CA's public key.
fn hash(ca_pem: &str) -> anyhow::Result<String> {
    let der = CertificateDer::from_pem_slice(ca_pem.as_bytes()).context("ca.crt is broken")?;
    let (_, certificate) = X509Certificate::from_der(&der).context("ca.crt is broken")?;
    let digest = Sha256::digest(certificate.public_key().raw);
    Ok(format!("sha256:{}", hex::encode(digest)))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(subcommand)]
        command: TokenCommand,
    }

    #[test]
    fn a_token_to_delete_is_kept_without_its_secret_part() {
        for token in ["abcdef.0123456789abcdef", "abcdef"] {
            let program = Program::try_parse_from(["token", "delete", token]).unwrap();
            let shown = format!("{program:?}");
            assert!(shown.contains("abcdef"), "{shown}");
            assert!(!shown.contains("0123456789"), "{shown}");
        }
        for wrong in ["", "abc", "ABCDEF", ".0123456789abcdef"] {
            assert!(Program::try_parse_from(["token", "delete", wrong]).is_err());
        }
    }
}
