// What a portal's page does: lists slices, is refused with every field named, and watches a slice as
// it runs. All that it finds out it tells the server it came from, step by step.

import { type Client, Code, ConnectError, type Interceptor, createClient } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { BadRequestSchema, ErrorInfoSchema } from "./gen/error_details_pb";
import { EventType } from "./gen/slicewire/hub/v1alpha1/common_pb";
import { LiveService } from "./gen/slicewire/hub/v1alpha1/live_pb";
import { SliceService } from "./gen/slicewire/hub/v1alpha1/slice_pb";

interface Wish {
  hub: string;
  token: string;
  project: string;
  slice: string;
}

async function tell(found: object): Promise<void> {
  await fetch("/told", { method: "POST", body: JSON.stringify(found) });
}

async function list(slices: Client<typeof SliceService>, project: string): Promise<void> {
  const { slices: found } = await slices.listSlices({ project });
  await tell({ step: "listed", slices: found.map((slice) => slice.metadata?.name) });
}

// A slice with an address that is none, and packets too small for anything.
async function beRefused(slices: Client<typeof SliceService>, project: string): Promise<void> {
  const slice = {
    metadata: { project, name: "from-a-browser" },
    spec: { prefixes: ["10.300.0.0/16"], clusters: [{ name: "east" }], mtu: 7 },
  };
  try {
    await slices.createSlice({ slice, validateOnly: true });
  } catch (caught) {
    const error = ConnectError.from(caught);
    const fields = error.findDetails(BadRequestSchema).flatMap((bad) => bad.fieldViolations);
    return tell({
      step: "refused",
      code: Code[error.code],
      fields: fields.map((violation) => violation.field),
      reasons: error.findDetails(ErrorInfoSchema).map((info) => info.reason),
      requestId: error.metadata.get("x-request-id"),
    });
  }
  throw new Error("a slice that is none was taken");
}

async function watch(live: Client<typeof LiveService>, { project, slice }: Wish): Promise<void> {
  for await (const told of live.watchTopology({ project, slice })) {
    if (told.type === EventType.CHANGED) {
      const tunnels = told.topology?.tunnels.filter((tunnel) => tunnel.up).length;
      await tell({ step: "watched", pods: told.topology?.attachedPods, tunnels });
    }
  }
  throw new Error("the watch ended");
}

function clients({ hub, token }: Wish) {
  const withToken: Interceptor = (next) => (request) => {
    request.header.set("authorization", `Bearer ${token}`);
    return next(request);
  };
  const transport = createGrpcWebTransport({ baseUrl: hub, interceptors: [withToken] });
  return { slices: createClient(SliceService, transport), live: createClient(LiveService, transport) };
}

async function main(): Promise<void> {
  const wish: Wish = await (await fetch("/wish")).json();
  const { slices, live } = clients(wish);
  await list(slices, wish.project);
  await beRefused(slices, wish.project);
  await watch(live, wish);
}

main().catch((caught: unknown) => {
  const error = ConnectError.from(caught);
  void tell({ step: "failed", code: Code[error.code], why: error.message });
});
