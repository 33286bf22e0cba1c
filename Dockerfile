# Weir as one static binary in an empty image, run by nobody in particular.
#
#   docker build -t weir .
#   docker run -p 53:5353/udp -p 53:5353/tcp -p 3128:3128 -v ./weir.yml:/weir.yml:ro -v weir:/var/lib/weir weir serve --config /weir.yml
#
# The built-in configuration listens on 127.0.0.1, which nobody outside the
# container reaches: give it one that listens on 0.0.0.0. There is no
# HEALTHCHECK, because it needs a program to run in the container and the image
# holds none but the gateway: probe /healthz and /readyz of the admin listener
# (8053) from outside.

FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags=-s -o /out/weir ./cmd/weir
RUN install -d -m 0700 /out/state

FROM scratch
# Upstreams over TLS and HTTPS, and lists from HTTPS, need authorities to trust.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
# The one folder that is written to: last good lists and generations. Without a
# "state" key it is a folder of the user's cache folder.
COPY --from=build --chown=65532:65532 /out/state /var/lib/weir
COPY --from=build /out/weir /weir
ENV XDG_CACHE_HOME=/var/lib/weir
VOLUME /var/lib/weir
USER 65532:65532
EXPOSE 5353/udp 5353/tcp 3128/tcp 8053/tcp
ENTRYPOINT ["/weir"]
CMD ["serve"]
