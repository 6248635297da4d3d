# Made by gemstead render docker. Build all: docker buildx bake
group "default" {
  targets = ["gateway", "gateway-distroless", "engine-gemma-4-e4b"]
}

target "gateway" {
  context    = "gateway"
  dockerfile = "Dockerfile"
  tags       = ["gemstead-gateway:0.1.0-3edec434"]
  # what is in the image, and how it came about, travel with it
  attest     = ["type=sbom", "type=provenance,mode=max"]
}

target "gateway-distroless" {
  context    = "gateway"
  dockerfile = "Dockerfile.distroless"
  tags       = ["gemstead-gateway:0.1.0-5a245fa0-distroless"]
  # what is in the image, and how it came about, travel with it
  attest     = ["type=sbom", "type=provenance,mode=max"]
}

target "engine-gemma-4-e4b" {
  context    = "engine-gemma-4-e4b"
  dockerfile = "Dockerfile"
  tags       = ["gemstead-gemma-4-e4b:0.1.0-2d6f0788"]
  secret     = ["id=hf_token,env=HF_TOKEN"]
  # what is in the image, and how it came about, travel with it
  attest     = ["type=sbom", "type=provenance,mode=max"]
}
