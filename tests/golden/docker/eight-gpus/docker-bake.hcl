# Made by gemstead render docker. Build all: docker buildx bake
group "default" {
  targets = ["gateway", "gateway-distroless", "engine-gemma-4-31b"]
}

target "gateway" {
  context    = "gateway"
  dockerfile = "Dockerfile"
  tags       = ["registry.acme.com/llm/gemstead-gateway:0.1.0-3edec434"]
  # what is in the image, and how it came about, travel with it
  attest     = ["type=sbom", "type=provenance,mode=max"]
}

target "gateway-distroless" {
  context    = "gateway"
  dockerfile = "Dockerfile.distroless"
  tags       = ["registry.acme.com/llm/gemstead-gateway:0.1.0-5a245fa0-distroless"]
  # what is in the image, and how it came about, travel with it
  attest     = ["type=sbom", "type=provenance,mode=max"]
}

target "engine-gemma-4-31b" {
  context    = "engine-gemma-4-31b"
  dockerfile = "Dockerfile"
  tags       = ["registry.acme.com/llm/gemstead-gemma-4-31b:0.1.0-799f4286"]
  # what is in the image, and how it came about, travel with it
  attest     = ["type=sbom", "type=provenance,mode=max"]
}
