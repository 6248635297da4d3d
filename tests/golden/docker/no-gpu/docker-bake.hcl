# Made by gemstead render docker. Build all: docker buildx bake
group "default" {
  targets = ["gateway", "gateway-distroless", "engine-gemma-4-e2b"]
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

target "engine-gemma-4-e2b" {
  context    = "engine-gemma-4-e2b"
  dockerfile = "Dockerfile"
  tags       = ["gemstead-gemma-4-e2b:0.1.0-8ac1905e"]
  # what is in the image, and how it came about, travel with it
  attest     = ["type=sbom", "type=provenance,mode=max"]
}
