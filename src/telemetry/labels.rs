//! The values that metrics' labels can have.

use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};

macro_rules! label {
    ($(#[$about:meta])* $name:ident { $($(#[$why:meta])* $variant:ident => $text:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$why])* $variant,)* }

        impl $name {
            /// All there are.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// As the label says it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl EncodeLabelValue for $name {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
                EncodeLabelValue::encode(&self.as_str(), encoder)
            }
        }
    };
}

label! {
    /// Which listener.
    ListenerName {
        /// Takes the registry's envelopes.
        Ingest => "ingest",
        /// Answers probes and scrapes.
        Ops => "ops",
        /// The page and the API.
        Admin => "admin",
    }
}

label! {
    /// Where an attempt is under way.
    Pool {
        /// Among those that are expected to end soon.
        Fast => "fast",
        /// Among those that drag, or whose endpoint is failing.
        Slow => "slow",
    }
}

label! {
    /// Why a connection ended.
    ConnectionEnd {
        /// Either side was done with it.
        Done => "done",
        /// It broke, or what came was not HTTP.
        Error => "error",
        /// It was closed at the connection cap to let another in.
        Evicted => "evicted",
        /// A head, or the TLS handshake, took too long; or nothing came for too long.
        TimedOut => "timed_out",
        /// The listener stopped.
        Stopped => "stopped",
    }
}

label! {
    /// How a request to ingest was answered.
    EnvelopeAnswer {
        /// 202: everything it held is durable, or is no push.
        Taken => "202",
        /// 202: it was no envelope, and went to the quarantine.
        Quarantined => "202_quarantined",
        /// 401
        Unauthorized => "401",
        /// 404
        NotFound => "404",
        /// 405
        MethodNotAllowed => "405",
        /// 503
        Unavailable => "503",
        /// None: the body did not come whole.
        Cut => "cut",
    }
}

label! {
    /// What became of an event.
    EventVerdict {
        /// A push that somebody owes.
        Accepted => "accepted",
        /// A push whose id was taken before.
        Duplicate => "duplicate",
        /// A delete: it only moves sizes.
        Change => "change",
        /// A push that no webhook is owed for: it only moves sizes.
        SizesOnly => "sizes_only",
        /// Neither push nor delete of a manifest, or another registry's.
        Ignored => "ignored",
        /// A push with an invalid name.
        Quarantined => "quarantined",
    }
}

label! {
    /// How a delivery attempt ended.
    AttemptResult {
        /// 200 to 299.
        Status2xx => "2xx",
        /// 300 to 399.
        Status3xx => "3xx",
        /// 400 to 499.
        Status4xx => "4xx",
        /// 500 and above.
        Status5xx => "5xx",
        /// No answer in time.
        Timeout => "timeout",
        /// The connection could not be made, or broke.
        Connect => "connect",
        /// This machine had nothing left to connect with, such as open files.
        Local => "local",
        /// The name could not be resolved.
        Dns => "dns",
        /// The TLS handshake failed.
        Tls => "tls",
        /// The proxy could not be reached, or gave no connection.
        Proxy => "proxy",
        /// The URL points where webhooks may not go.
        Refused => "refused",
        /// Anything else.
        Other => "other",
    }
}

label! {
    /// What came of sending a dead letter again.
    ReplayResult {
        /// Answered with 2xx.
        Delivered => "delivered",
        /// Anything else: it is dead again.
        Failed => "failed",
        /// Not sent: there is a newer push of its tag.
        PassedOver => "passed_over",
        /// Not sent: its endpoint is gone, or disabled.
        Refused => "refused",
    }
}

label! {
    /// Which number a webhook went out without.
    SizeNumber {
        /// `image_size`
        Image => "image_size",
        /// `layers`
        Layers => "layers",
        /// `repository_size`
        Repository => "repository_size",
    }
}

label! {
    /// How a request to the registry's API ended.
    RegistryResult {
        /// Answered as asked.
        Ok => "ok",
        /// 404: it has no such thing.
        NotFound => "not_found",
        /// 401 or 403.
        Denied => "denied",
        /// 429.
        Limited => "limited",
        /// Any other status.
        Status => "status",
        /// No answer in time.
        Timeout => "timeout",
        /// The connection could not be made, or broke.
        Connect => "connect",
    }
}

impl AttemptResult {
    /// The result that an answer of this status is.
    #[must_use]
    pub fn of_status(status: u16) -> Self {
        match status {
            200..=299 => Self::Status2xx,
            300..=399 => Self::Status3xx,
            400..=499 => Self::Status4xx,
            500..=599 => Self::Status5xx,
            _ => Self::Other,
        }
    }
}

label! {
    /// How a reading of the configuration ended.
    ReloadResult {
        /// Its endpoints are in effect.
        Applied => "applied",
        /// Something is wrong with it, and the one before stays.
        Refused => "refused",
    }
}
